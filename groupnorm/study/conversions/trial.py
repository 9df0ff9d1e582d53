"""A trial of a conversion as a value. Standard library only: a study is planned with it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

METHODS = {
    "teacher": "the teacher as it is",
    "reset": "reset",
    "copy": "copy",
    "data-free": "data-free",
    "least squares": "least squares",
    "fit": "fit",
    "fit, no signs": "without signs",
    "fit, no scales": "without scales",
    "fit, no offsets": "without offsets",
    "fit, small offsets": "offsets up to 1",
    "fit, no descent": "without descent",
    "fit, no refit": "without refit",
    "frozen BN": "frozen BN",
    "BN": "BN",
    "scratch": "GN from scratch",
}
"""What becomes of the batch norms, with what readers see. `methods` says what each does."""
WITH_IMAGES = ("least squares", *(name for name in METHODS if name.startswith("fit")))
"""The methods that need calibration images."""
UNCONVERTED = ("teacher", "frozen BN", "BN")
"""Those that leave the network's statistics and weights as they are."""
LABELS, DISTILLATION = "labels", "distillation"
FITTED = "gn"
"""The groups that a conversion with data finds for each layer."""


@dataclass(frozen=True)
class Trial:
    """How a teacher's network is converted, and what happens to it then.

    Attributes:
        method: one of `METHODS`.
        to: the norm asked for, as `groupnorm.convert` reads it; "" where nothing is converted.
        min_channels: of each group.
        images: how many it is calibrated with; 0 for methods that need none.
        steps: of fine-tuning with 4 images each; 0 for none.
        target: what it is fine-tuned to, `LABELS` or `DISTILLATION`; "" without steps.
        rate: peak learning rate of the fine-tuning; 0 without steps.
    """

    method: str
    to: str = ""
    min_channels: int = 1
    images: int = 0
    steps: int = 0
    target: str = ""
    rate: float = 0.0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"unknown method {self.method!r}; known: {', '.join(METHODS)}")
        if bool(self.images) != (self.method in WITH_IMAGES):
            raise ValueError(f"{self.method} with {self.images} images")
        if self.target not in ((LABELS, DISTILLATION) if self.steps else ("",)):
            raise ValueError(f"{self.steps} steps of fine-tuning with target {self.target!r}")
        if (self.rate > 0) != (self.steps > 0):
            raise ValueError(f"{self.steps} steps of fine-tuning with rate {self.rate}")

    @property
    def name(self) -> str:
        """Of its file: readable, and unique by the digest of all fields."""
        text = json.dumps(asdict(self), sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:10]
        words = [self.method, self.to, f"{self.steps} steps" if self.steps else "", self.target]
        readable = "-".join("".join(c if c.isalnum() else "-" for c in w) for w in words if w)
        return f"{readable}-{digest}"

    @property
    def converted(self) -> Trial:
        """The trial without its fine-tuning: its network is where that begins."""
        return Trial(self.method, self.to, self.min_channels, self.images)

    @property
    def seconds(self) -> float:
        """About what it takes on one core, which the time left goes by."""
        return 4.0 + (4.0 if self.images else 0.0) + 0.03 * self.steps

    def as_json(self) -> dict[str, Any]:
        """Its fields as plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Trial:
        """Inverse of `as_json`.

        Raises:
            ValueError, TypeError: they are no trial.
        """
        return cls(**values)


@dataclass(frozen=True)
class NetworkTrials:
    """The trials that are done with every run of a network.

    Attributes:
        trials: in the order in which they are done.
        aims: by the norm asked for, what share of the teacher's result the fit is meant to keep
            there, in percent.
    """

    trials: tuple[Trial, ...]
    aims: Mapping[str, float] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Its fields as plain values."""
        return {"trials": [trial.as_json() for trial in self.trials], "aims": dict(self.aims)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> NetworkTrials:
        """Inverse of `as_json`.

        Raises:
            ValueError, TypeError: a trial of it is none.
        """
        return cls(tuple(map(Trial.from_json, values["trials"])), values["aims"])
