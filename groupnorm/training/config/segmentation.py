"""The configuration of a training that labels every pixel."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

from pydantic import model_validator

from groupnorm.spec import NormSpec
from groupnorm.training.config.common import TrainingConfig
from groupnorm.training.config.fields import Amount, Count, Norm


class SegmentationConfig(TrainingConfig):
    """Everything that decides the numbers of a run of semantic segmentation.

    The learning rate is 0.1 per 256 images of the step, as a classifier's: with 8 workers
    `0.1 * N / 32`.
    """

    always_in_the_name: ClassVar[frozenset[str]] = frozenset({
        "task", "model", "norm", "data", "train_images", "workers", "batch_per_worker",
        "accumulate", "epochs", "steps", "schedule", "drops", "warmup_epochs", "warmup_steps",
        "warmup_from", "base_lr", "momentum", "nesterov", "weight_decay", "decay_norms",
        "clip_norm", "precision", "memory_format", "seed",
    })  # fmt: skip

    task: Literal["segmentation"] = "segmentation"
    """What is learned."""
    model: str = "unet_narrow"
    """unet_narrow, for images whose sides are multiples of 8."""
    norms: dict[str, Norm] = {}  # noqa: RUF012 - pydantic copies it
    """Other normalizations for parts of the network, as norms.decoder=gn:groups=8; the parts are
    encoder and decoder."""
    init_norms: Literal["keep", "convert", "reset"] = "keep"
    """With init, of a classifier whose body is the encoder: what becomes of its batch norms. keep:
    the encoder has the same norms, or frozenbn; convert: they are converted to the encoder's group
    norm, fitted to training images (gn lets the conversion choose the groups, so that 32 cannot be
    asked for); reset: the encoder's norms are new, and only the convolutions are the
    classifier's."""
    init_offset_limit: Amount | None = None
    """With init_norms=convert: the largest offset before a norm, in deviations of the channel; 0
    for none, None for that of groupnorm.convert."""
    data: str = "garments-masks"
    """Data set with a label for every pixel; 'groupnorm doctor' lists them."""
    train_images: Count | None = None
    """Train on so many images only, the first; None for all."""
    validation_images: Count | None = None
    """Hold out so many training images, the last, and evaluate on them in place of the test images;
    None for no such thing."""
    reported_epochs: Count = 1
    """The reported number is the median over so many last epochs; batch norm's statistics are
    recomputed after each of them, and after no other."""

    @model_validator(mode="after")
    def _init_norms_that_fit(self) -> SegmentationConfig:
        if self.init_offset_limit is not None and not self.converted_part:
            raise ValueError(
                "init_offset_limit is about the conversion of norms; give init_norms=convert, or "
                "leave init_offset_limit out"
            )
        if self.init_norms == "keep":
            return self
        if self.init is None:
            raise ValueError(
                f"init_norms={self.init_norms} is about the norms of the run that init names; give "
                "init, or leave init_norms out"
            )
        norm = self.encoder_norm
        if self.converted_part and not (norm.is_group_norm and norm.affine and not norm.ws):
            raise ValueError(
                "init_norms=convert makes group norms of the encoder's batch norms: "
                f"norms.encoder must be gn, ln or in, with scale and shift and without ws, got "
                f"{norm}"
            )
        default = "groups" in norm.given and norm == replace(norm, groups=None)
        if self.converted_part and default:
            raise ValueError(
                f"init_norms=convert chooses the number of groups for {norm}, and cannot be told "
                f"to take its default: give another number than {norm.groups}, or none"
            )
        return self

    @property
    def encoder_norm(self) -> NormSpec:
        """The normalization of the encoder."""
        return self.norms.get("encoder", self.norm)

    @property
    def converted_part(self) -> str | None:
        """The encoder with init_norms=convert."""
        return "encoder" if self.init_norms == "convert" else None
