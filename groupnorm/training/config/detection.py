"""The configuration of a detector's training."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from groupnorm.training.config.common import TrainingConfig
from groupnorm.training.config.fields import Amount, Count, Drops, ImageSize, Norm

_COUNTED = Annotated[int, Field(ge=0, le=10**9)]


class DetectionConfig(TrainingConfig):
    """Everything that decides the numbers of a detector's run (Wu & He 2018, section 4.2).

    The defaults of the optimizer are those of Detectron's GN baselines
    (`configs/04_2018_gn_baselines`): a learning rate of 0.02 for 8 workers with 2 images each,
    which follows the number of images (Goyal et al. 2017), momentum without Nesterov's form, weight
    decay 1e-4 and none on gamma and beta, a warm-up of 500 steps from 1/3. Its 1x and 2x schedules
    drop the rate after 2/3 and 8/9 of 90,000 and 180,000 steps, the 3x schedule after 7/9 and 25/27
    of 270,000 (`DROPS`, `DROPS_3X`).
    """

    always_in_the_name: ClassVar[frozenset[str]] = frozenset({
        "task", "model", "norm", "box_head", "head_init", "freeze_at", "data", "short_side",
        "long_side", "train_images", "workers", "batch_per_worker", "accumulate", "epochs", "steps",
        "schedule", "drops", "warmup_epochs", "warmup_steps", "warmup_from", "base_lr", "momentum",
        "nesterov", "weight_decay", "decay_norms", "clip_norm", "precision", "memory_format",
        "seed",
    })  # fmt: skip
    reference_images: ClassVar[int] = 16

    task: Literal["detection"] = "detection"
    """What is learned."""
    model: str = "mask_rcnn_narrow"
    """mask_rcnn_narrow, retinanet_narrow, mask_rcnn_resnet18, 50, 101, retinanet_resnet18, 50, 101,
    mask_rcnn_c4_resnet50, 101."""
    norms: dict[str, Norm] = {}  # noqa: RUF012 - pydantic copies it
    """Other normalizations for parts of the network, as norms.backbone=frozenbn; the parts are
    backbone, fpn, box_head and mask_head of Mask R-CNN, head of RetinaNet."""
    box_head: Literal["2fc", "4conv1fc"] = "2fc"
    """Of Mask R-CNN with a pyramid: 2fc, which has no norm, or 4conv1fc."""
    head_init: Literal["published", "he"] = "published"
    """First weights of the heads' hidden convolutions: published, where those of proposals and of
    RetinaNet are N(0, 0.01), or he, He normal in all, for short trainings."""
    freeze_at: _COUNTED = 0
    """Parts of the backbone that learn nothing: 1 the stem, 2 also stage1, Detectron's setting for
    fine-tuning, and so on."""
    data: str = "garments"
    """Data set with boxes and masks; 'groupnorm doctor' lists them."""
    short_side: ImageSize | None = None
    """Images are resized until their short side has so many pixels; None for the data set's own
    size, which is 800 of coco. Anchors and numbers of regions follow it."""
    long_side: ImageSize | None = None
    """Or until their long side has so many, if that is less; None for the data set's own limit."""
    batch_per_worker: Count = 2
    """Images of a worker: its losses are means over its own images, and batch norm takes its
    statistics from them."""
    train_images: Count | None = None
    """Train on so many images only, the first of the annotation file that have an object; None for
    all. Of a file in some order they are a biased part."""
    validation_images: Count | None = None
    """Hold out so many training images, the last of the annotation file that have an object, and
    evaluate on them in place of the test images; None for no such thing. Of a file in some order
    they are a biased part."""
    drops: Drops = (2 / 3, 8 / 9)
    """Shares of the run after which the schedule step divides the learning rate by 10."""
    warmup_steps: _COUNTED | None = 500
    """Optimizer steps in which the learning rate rises to its peak; 50 do for short runs of narrow
    networks."""
    warmup_from: Annotated[float, Field(ge=0, lt=1)] = 1 / 3
    """Share of the peak that the rise begins at, in the first step."""
    base_lr: Annotated[Amount, Field(gt=0)] = 0.02
    """Learning rate at the reference number of images a step."""
    nesterov: bool = False
    """Nesterov's form of the momentum."""
    decay_norms: bool = False
    """Weight decay on gamma and beta too, or on neither (false), as is usual in fine-tuning."""
    reported_epochs: Count = 1
    """The reported number is the median over so many last epochs; batch norm's statistics are
    recomputed after each of them, and after no other."""

    @model_validator(mode="after")
    def _not_compiled(self) -> DetectionConfig:
        if self.compile:
            raise ValueError("compile: detectors are not compiled, got compile=true")
        return self

    @property
    def whole_workers(self) -> bool:
        """True: a detector's losses are means over each worker's anchors and regions."""
        return True
