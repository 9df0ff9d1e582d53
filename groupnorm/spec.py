"""NormSpec: which normalization, as a value with a short string form.

Grammar::

    spec    = kind [ ":" key "=" value { "," key "=" value } ] [ "+ws" | "+nf" ]
    example = gn   gn:groups=16   gn:size=16   gn:groups=auto   ln   in   bn   none+nf
              gn:groups=16,eps=1e-6+ws

The module needs the standard library only, so that configurations and the command line can read
a spec without loading torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

# kind -> (default eps, keys accepted in the string form, depends on the other images of the batch)
_KINDS: dict[str, tuple[float, tuple[str, ...], bool]] = {
    "gn": (1e-5, ("groups", "size", "eps", "affine"), False),
    "ln": (1e-5, ("eps", "affine"), False),
    "in": (1e-5, ("eps", "affine"), False),
    "ln2d": (1e-6, ("eps", "affine"), False),
    "bn": (1e-5, ("eps", "affine"), True),
    "syncbn": (1e-5, ("eps", "affine"), True),
    "frozenbn": (1e-5, ("eps",), False),
    "brn": (1e-5, ("r", "d", "ramp", "eps", "affine"), True),
    "frn": (1e-6, ("learn_eps", "eps", "affine"), False),
    "evonorm_s0": (1e-5, ("groups", "size", "eps", "affine"), False),
    "none": (0.0, (), False),
}
KINDS: tuple[str, ...] = tuple(_KINDS)
DEFAULT_NUM_GROUPS = 32
AUTO_SMALLEST_GROUP = 4
"""Channels that `groups="auto"` leaves in every group, where a layer has that many."""
# Batch renormalization as the group norm paper ran it (Wu & He 2018, section 4.1): r, d, no ramp.
_RENORM: dict[str, float] = {"r": 1.5, "d": 0.5, "ramp": 0}
_MAY_BE_LEFT_OUT = ("groups", "size", "eps")
"""Options of which a conversion must know whether they were given, be it their default."""
_LARGEST = 10_000_000
_WITH_ACTIVATION = ("frn", "evonorm_s0")


class NormSpecError(ValueError):
    """A normalization spec that cannot be read; the message lists what is known."""


@dataclass(frozen=True, slots=True)
class NormSpec:
    """One normalization: its kind and every number that defines it.

    Attributes:
        kind: one of `KINDS`.
        groups: number of groups asked for (kinds `gn` and `evonorm_s0`; 32 when neither
            `groups` nor `size` is given). "auto": by the channels of each layer alone, see
            `num_groups`.
        size: channels per group asked for; exclusive with `groups`.
        eps: added to the biased variance, inside the root. None takes the kind's default.
        affine: learn a per-channel scale and shift.
        r: for `brn`, the largest factor between batch and running standard deviation; at least 1.
        d: for `brn`, the largest distance of batch and running mean, in standard deviations.
        ramp: for `brn`, the training step at which r and d have their full size; 0 from the start.
        learn_eps: for `frn`, learn an addition to eps, which maps of one position need.
        ws: the convolutions are weight-standardized (Qiao et al., arXiv 1903.10520).
        nf: for `none`: scaled weight standardization and the residual scaling of normalizer-free
            ResNets (Brock et al. 2021, arXiv 2101.08692) take the norm's place.
    """

    kind: str
    groups: int | Literal["auto"] | None = None
    size: int | None = None
    eps: float | None = None
    affine: bool = True
    r: float | None = None
    d: float | None = None
    ramp: int | None = None
    learn_eps: bool = False
    ws: bool = False
    nf: bool = False
    _given: frozenset[str] = field(default=frozenset(), init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        asked = (key for key in _MAY_BE_LEFT_OUT if getattr(self, key) is not None)
        object.__setattr__(self, "_given", frozenset(asked))
        if self.kind not in _KINDS:
            raise NormSpecError(
                f"unknown normalization {self.kind!r}; known kinds: {', '.join(KINDS)} "
                "(any of them may end in +ws, and none in +nf)"
            )
        default_eps, keys, _ = _KINDS[self.kind]
        for key in ("groups", "size"):
            value = getattr(self, key)
            if value is None:
                continue
            if key not in keys:
                raise NormSpecError(_unknown_key(self.kind, key))
            if key == "groups" and value == "auto":
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise NormSpecError(f"{self.kind}: {key} must be {_WANTED[key]}, got {value!r}")
            if value > _LARGEST:
                raise NormSpecError(f"{self.kind}: {key} must be at most {_LARGEST}, got {value!r}")
        if self.groups is not None and self.size is not None:
            raise NormSpecError(
                f"{self.kind}: give groups (number of groups) or size (channels per group), "
                f"not both; got groups={self.groups}, size={self.size}"
            )
        if "groups" in keys and self.groups is None and self.size is None:
            object.__setattr__(self, "groups", DEFAULT_NUM_GROUPS)
        for key in ("affine", "learn_eps", "ws", "nf"):
            if not isinstance(getattr(self, key), bool):
                raise NormSpecError(
                    f"{self.kind}: {key} must be True or False, got {getattr(self, key)!r}"
                )
        if self.eps is not None and not isinstance(self.eps, (int, float)):
            raise NormSpecError(f"{self.kind}: eps must be a number, got {self.eps!r}")
        if self.eps is None:
            object.__setattr__(self, "eps", default_eps)
        elif "eps" not in keys:
            if self.eps != default_eps:
                raise NormSpecError(_unknown_key(self.kind, "eps"))
        elif not 0 < self.eps < 1:
            raise NormSpecError(f"{self.kind}: eps must lie between 0 and 1, got {self.eps!r}")
        for key, default in (("affine", True), ("learn_eps", False)):
            if getattr(self, key) != default and key not in keys:
                raise NormSpecError(_unknown_key(self.kind, key))
        if self.nf and (self.kind != "none" or self.ws):
            raise NormSpecError(
                f"{self.kind}{'+ws' if self.ws else ''}: +nf stands in for a norm; write 'none+nf'"
            )
        self._check_renorm()

    def _check_renorm(self) -> None:
        if self.kind != "brn":
            for key in _RENORM:
                if getattr(self, key) is not None:
                    raise NormSpecError(_unknown_key(self.kind, key))
            return
        for key, default in _RENORM.items():
            value = default if getattr(self, key) is None else getattr(self, key)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise NormSpecError(f"brn: {key} must be a number, got {value!r}")
            if key == "ramp" and value % 1:
                raise NormSpecError(f"brn: ramp must be a number of steps, got {value!r}")
            least = 1 if key == "r" else 0
            if not least <= value <= _LARGEST:
                raise NormSpecError(
                    f"brn: {key} must lie between {least} and {_LARGEST}, got {value!r}"
                )
            object.__setattr__(self, key, int(value) if key == "ramp" else float(value))

    @classmethod
    def parse(cls, text: str | NormSpec) -> NormSpec:
        """Read the string form; a NormSpec is returned as it is.

        Raises:
            NormSpecError: unknown kind or key (the message lists the known ones), a value of the
                wrong type, or both `groups` and `size`.
        """
        if isinstance(text, NormSpec):
            return text
        if not isinstance(text, str):
            raise NormSpecError(
                f"a normalization is a string such as 'gn:groups=16' or a NormSpec, "
                f"got {type(text).__name__}"
            )
        body, *suffixes = text.strip().lower().split("+")
        # "1e+5" would split at its sign; no value here needs a positive exponent.
        if suffixes not in ([], ["ws"], ["nf"]):
            raise NormSpecError(
                f"{text!r}: unknown suffix +{'+'.join(suffixes)}; known suffixes, one at a time: "
                "+ws, and +nf after none"
            )
        kind, colon, options = body.partition(":")
        if kind not in _KINDS:
            cls(kind)  # raises with the list of kinds
        if colon and not options:
            raise NormSpecError(f"{text!r}: nothing follows the colon; write {kind!r} alone")
        values: dict[str, Any] = {}
        for item in options.split(",") if options else []:
            key, equals, value = (part.strip() for part in item.partition("="))
            if key not in _KINDS[kind][1]:
                raise NormSpecError(_unknown_key(kind, key))
            if not equals or not value:
                raise NormSpecError(f"{text!r}: expected {key}=value, got {item!r}")
            if key in values:
                raise NormSpecError(f"{text!r}: {key} is given twice")
            values[key] = _read_value(kind, key, value)
        return cls(kind, ws=suffixes == ["ws"], nf=suffixes == ["nf"], **values)

    def __str__(self) -> str:
        return self._text(self._unlike_default())

    @property
    def as_given(self) -> str:
        """The string form with the options that were given, be it as their default."""
        return self._text(self.given)

    @property
    def given(self) -> frozenset[str]:
        """Which of `groups`, `size` and `eps` were given, be it as their default.

        The string form and `to_dict` do not tell: what is read from them has those of other values
        than the default. It takes no part in comparisons.
        """
        # a spec that was pickled before it knew has none
        given: frozenset[str] = getattr(self, "_given", self._unlike_default())
        return given

    def _unlike_default(self) -> frozenset[str]:
        groups = self.groups not in (None, DEFAULT_NUM_GROUPS)
        unlike = {"groups": groups, "size": self.size is not None, "eps": self.eps != self._eps}
        return frozenset(key for key, found in unlike.items() if found)

    @property
    def _eps(self) -> float:
        return _KINDS[self.kind][0]

    def _text(self, shown: frozenset[str]) -> str:
        parts = []
        if "groups" in shown:
            parts.append(f"groups={self.groups}")
        if self.size is not None:
            parts.append(f"size={self.size}")
        for key, default in _RENORM.items():
            if getattr(self, key) not in (None, default):
                parts.append(f"{key}={getattr(self, key)!r}")
        if self.learn_eps:
            parts.append("learn_eps=true")
        if "eps" in shown:
            parts.append(f"eps={self.eps!r}")
        if not self.affine:
            parts.append("affine=false")
        options = ":" + ",".join(parts) if parts else ""
        return f"{self.kind}{options}{'+ws' if self.ws else ''}{'+nf' if self.nf else ''}"

    def to_dict(self) -> dict[str, Any]:
        """Every field as plain JSON values; `NormSpec.from_dict` reads it back."""
        return {one.name: getattr(self, one.name) for one in fields(self) if one.init}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> NormSpec:
        """Inverse of `to_dict`; unknown keys raise NormSpecError."""
        known = [one.name for one in fields(cls) if one.init]
        unknown = sorted(set(values) - set(known), key=str)
        if unknown or "kind" not in values:
            problem = f"unknown keys {unknown}" if unknown else "the key 'kind' is missing"
            raise NormSpecError(f"{problem}; known keys: {', '.join(known)}")
        spec = cls(**values)
        object.__setattr__(spec, "_given", spec._unlike_default())
        return spec

    def same_kind(self, other: NormSpec) -> bool:
        """True when both are one kind of norm and both or neither standardize the weights."""
        return (self.kind, self.ws) == (other.kind, other.ws)

    def may_take_weights_of(self, trained: NormSpec) -> bool:
        """True when a network with this norm computes what the trained one did, from its weights.

        That is the same norm, or two that take the batch's statistics in training, as `bn` and
        `syncbn`, whose running statistics `frozenbn` takes as well; both or neither standardize the
        weights.
        """
        of_batches = self.uses_batch_statistics or self.kind == "frozenbn"
        both = of_batches and trained.uses_batch_statistics and self.ws == trained.ws
        return self == trained or both

    @property
    def uses_batch_statistics(self) -> bool:
        """True when an image's output depends on the other images of its batch in training."""
        return _KINDS[self.kind][2]

    @property
    def has_own_groups(self) -> bool:
        """True when the number of groups or of their channels was given, or the kind fixes it."""
        return self.kind in ("ln", "in") or bool(self.given & {"groups", "size"})

    @property
    def own_eps(self) -> float | None:
        """The eps, where it was given."""
        return self.eps if "eps" in self.given else None

    @property
    def is_group_norm(self) -> bool:
        """True for `gn` and its extremes `ln` and `in`, which differ by the number of groups."""
        return self.kind in ("gn", "ln", "in")

    @property
    def synchronized(self) -> bool:
        """True when the batch's statistics are taken over all workers."""
        return self.kind == "syncbn"

    @property
    def normalizes(self) -> bool:
        """False for `none`, which leaves everything as it is."""
        return self.kind != "none"

    @property
    def brings_activation(self) -> bool:
        """True when the norm ends in an activation of its own, which takes the place of ReLU."""
        return self.kind in _WITH_ACTIVATION

    def num_groups(self, num_channels: int) -> int:
        """The number of groups used for `num_channels` channels: always a divisor of it.

        The divisor rule: the largest divisor of `num_channels` that is at most the number asked
        for, of groups or (with `size`) of channels per group. `ln` has one group and `in` one
        per channel.

        `groups="auto"` is the largest divisor of `num_channels` that is at most 32 and leaves at
        least 4 channels in a group. Where none does, with fewer than 4 channels, it is one group.

        Raises:
            NormSpecError: the kind has no groups, or `num_channels` is not positive.
        """
        if num_channels < 1:
            raise NormSpecError(f"num_channels must be positive, got {num_channels}")
        if self.kind == "ln":
            return 1
        if self.kind == "in":
            return num_channels
        if self.size is not None:
            return num_channels // _largest_divisor(num_channels, self.size)
        if self.groups == "auto":
            limit = min(DEFAULT_NUM_GROUPS, num_channels // AUTO_SMALLEST_GROUP)
            return _largest_divisor(num_channels, max(limit, 1))
        if self.groups is not None:
            return _largest_divisor(num_channels, self.groups)
        raise NormSpecError(f"{self.kind} has no groups")


def _largest_divisor(number: int, limit: int) -> int:
    return next(d for d in range(min(number, limit), 0, -1) if number % d == 0)


def _unknown_key(kind: str, key: str) -> str:
    keys = _KINDS[kind][1]
    known = f"known keys: {', '.join(keys)}" if keys else f"{kind} takes no keys"
    return f"{kind}: unknown key {key!r}; {known}"


_WANTED = {
    "groups": "a positive integer or auto",
    "size": "a positive integer",
    "ramp": "a number of steps",
    "eps": "a number",
    "r": "a number",
    "d": "a number",
}


def _read_value(kind: str, key: str, value: str) -> int | float | bool | str:
    if key == "groups" and value == "auto":
        return value
    try:
        if key in ("groups", "size", "ramp"):
            return int(value)
        if key in ("eps", "r", "d"):
            return float(value)
        return {"true": True, "false": False}[value]
    except (ValueError, KeyError):
        wanted = _WANTED.get(key, "true or false")
        raise NormSpecError(f"{kind}: {key} must be {wanted}, got {value!r}") from None
