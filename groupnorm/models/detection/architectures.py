"""Names and places of the detectors, and the sizes that follow the canvas. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass, replace

from groupnorm.models.classification.widths import NARROW_RESNET
from groupnorm.spec import NormSpec

Levels = tuple[tuple[float, ...], ...]

BOX_HEADS = ("2fc", "4conv1fc")
HEAD_INITS = ("published", "he")
IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)
"""Of ImageNet's images in 0 to 1, red, green and blue, as torchvision has them."""
_FEWEST = 8


@dataclass(frozen=True)
class RegionSizes:
    """Sizes and numbers of anchors and regions, for images of one canvas.

    Attributes:
        canvas: shorter side of the images in pixels.
        anchor_sizes: sides of the square anchors in pixels, for each level of maps, finest first.
        canonical_scale: side in pixels of the smallest region that `canonical_level` pools (Lin et
            al. 2017, arXiv 1612.03144, equation 1; a region of half that side goes one level
            down).
        canonical_level: binary logarithm of that level's stride.
        before_nms: proposals per level that enter non-maximum suppression, in training and in
            evaluation.
        proposals: what it leaves per image, in training and in evaluation.
        sampled_anchors: anchors per image in the loss of the proposals.
        sampled_regions: regions per image in the loss of the heads.
        candidates: RetinaNet's detections per level that enter non-maximum suppression.
        detections: the most that an image has.
    """

    canvas: int
    anchor_sizes: Levels
    canonical_scale: float = 0.0
    canonical_level: int = 0
    before_nms: tuple[int, int] = (0, 0)
    proposals: tuple[int, int] = (0, 0)
    sampled_anchors: int = 0
    sampled_regions: int = 0
    candidates: int = 0
    detections: int = 100

    def scaled_to(self, canvas: int) -> RegionSizes:
        """The same for another canvas.

        Sides grow and shrink in proportion to it. Numbers shrink with the area of a smaller one, to
        8 at least, and do not grow with a larger one.

        Raises:
            ValueError: the canvas is not positive.
        """
        if canvas < 1:
            raise ValueError(f"the canvas must have 1 pixel or more, got {canvas}")
        factor = canvas / self.canvas

        def number(count: int) -> int:
            return min(count, max(round(count * factor**2), _FEWEST))

        def numbers(counts: tuple[int, int]) -> tuple[int, int]:
            return number(counts[0]), number(counts[1])

        return replace(
            self,
            canvas=canvas,
            anchor_sizes=tuple(tuple(s * factor for s in sizes) for sizes in self.anchor_sizes),
            canonical_scale=self.canonical_scale * factor,
            before_nms=numbers(self.before_nms),
            proposals=numbers(self.proposals),
            sampled_anchors=number(self.sampled_anchors),
            sampled_regions=number(self.sampled_regions),
            candidates=number(self.candidates),
            detections=number(self.detections),
        )


@dataclass(frozen=True)
class Architecture:
    """What a detector's name stands for.

    Attributes:
        family: "retinanet", "mask_rcnn" (with a feature pyramid) or "mask_rcnn_c4".
        body: the classification network whose stages it has.
        places: the parts that may have a norm of their own, from input to output.
        fpn_channels: channels of the feature pyramid's maps.
        hidden: channels of the hidden linear layers of the box head.
        convolutions: 3x3 convolutions of the mask head, or of each of RetinaNet's heads.
        regions: sizes and numbers at the canvas they were made for.
    """

    family: str
    body: str
    places: tuple[str, ...]
    fpn_channels: int
    hidden: int
    convolutions: int
    regions: RegionSizes


_OCTAVE = (1.0, 2 ** (1 / 3), 2 ** (2 / 3))
_RETINANET = RegionSizes(
    800,
    tuple(tuple(side * step for step in _OCTAVE) for side in (32.0, 64.0, 128.0, 256.0, 512.0)),
    candidates=1000,
)
_MASK_RCNN = RegionSizes(
    800,
    ((32.0,), (64.0,), (128.0,), (256.0,), (512.0,)),
    canonical_scale=224.0,
    canonical_level=4,
    before_nms=(2000, 1000),
    proposals=(2000, 1000),
    sampled_anchors=256,
    sampled_regions=512,
)
_MASK_RCNN_C4 = replace(
    _MASK_RCNN, anchor_sizes=((32.0, 64.0, 128.0, 256.0, 512.0),), before_nms=(12000, 6000)
)
# Garments of a fifth to a half of the canvas, few per image.
_NARROW_RETINANET = RegionSizes(
    96,
    tuple(tuple(side * step for step in _OCTAVE) for side in (16.0, 32.0, 64.0)),
    candidates=200,
    detections=50,
)
_NARROW_MASK_RCNN = RegionSizes(
    96,
    ((16.0,), (32.0,), (56.0,)),
    canonical_scale=40.0,
    canonical_level=3,
    before_nms=(200, 200),
    proposals=(100, 50),
    sampled_anchors=64,
    sampled_regions=32,
    detections=20,
)

_RETINANET_PLACES = ("backbone", "fpn", "head")
_MASK_RCNN_PLACES = ("backbone", "fpn", "box_head", "mask_head")

DETECTORS: dict[str, Architecture] = {
    **{
        f"retinanet_resnet{depth}": Architecture(
            "retinanet", f"resnet{depth}", _RETINANET_PLACES, 256, 0, 4, _RETINANET
        )
        for depth in (18, 50, 101)
    },
    "retinanet_narrow": Architecture(
        "retinanet", NARROW_RESNET, _RETINANET_PLACES, 48, 0, 2, _NARROW_RETINANET
    ),
    **{
        f"mask_rcnn_resnet{depth}": Architecture(
            "mask_rcnn", f"resnet{depth}", _MASK_RCNN_PLACES, 256, 1024, 4, _MASK_RCNN
        )
        for depth in (18, 50, 101)
    },
    "mask_rcnn_narrow": Architecture(
        "mask_rcnn", NARROW_RESNET, _MASK_RCNN_PLACES, 48, 128, 2, _NARROW_MASK_RCNN
    ),
    **{
        f"mask_rcnn_c4_resnet{depth}": Architecture(
            "mask_rcnn_c4", f"resnet{depth}", ("backbone",), 0, 0, 0, _MASK_RCNN_C4
        )
        for depth in (50, 101)
    },
}


def check_box_head(kind: str, norm: NormSpec | None) -> None:
    """Check that a box head of this kind has a place for the norm that it is given by name.

    Raises:
        ValueError: it is "2fc", which has none.
    """
    if kind == "2fc" and norm is not None and norm.normalizes:
        raise ValueError(
            f"the box head 2fc has no convolution for {norm} to follow; use box_head='4conv1fc', "
            "or leave norms.box_head out"
        )


def architecture_of(name: str) -> Architecture:
    """What the name of a detector stands for.

    Raises:
        ValueError: unknown name; the message lists the known ones.
    """
    if name not in DETECTORS:
        raise ValueError(f"unknown detector {name!r}; known: {', '.join(DETECTORS)}")
    return DETECTORS[name]
