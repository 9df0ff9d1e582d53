"""Scenes: garments at random position and scale, tinted, on photographs, under random lighting.

One function, `make_scene`, serves every task. Classification is the case of one garment and one
frame; detection and segmentation take several garments with their boxes and exact masks; video
takes several frames, in which each garment moves along a straight line. A scene depends on its key
and on its number alone, not on how many scenes are made or in which order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from groupnorm.data.synthetic.resample import Array, area_table, resample

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class SceneConfig:
    """What a scene is made of.

    Attributes:
        canvas: height and width in pixels.
        garments: least and greatest number of garments.
        size: least and greatest side of a garment's square, in pixels of the canvas.
        frames: T, the number of frames.
        speed: least and greatest speed of a garment, in pixels a frame.
    """

    canvas: tuple[int, int] = (32, 32)
    garments: tuple[int, int] = (1, 1)
    size: tuple[float, float] = (24.0, 31.0)
    frames: int = 1
    speed: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        low, high = self.size
        if not (0 < low <= high <= min(self.canvas)):
            raise ValueError(f"size must be positive and fit the canvas {self.canvas}: {self.size}")
        if not (0 <= self.garments[0] <= self.garments[1]) or self.frames < 1:
            raise ValueError(
                f"expected 0 <= least <= greatest number of garments and at least one frame, "
                f"got garments={self.garments}, frames={self.frames}"
            )


@dataclass(frozen=True, eq=False)
class Scene:
    """One scene of T frames with K garments, the first the farthest from the camera.

    Attributes:
        images: uint8 (T, H, W, 3).
        labels: int64 (K,).
        boxes: float32 (T, K, 4), x0 y0 x1 y1 in pixels: the smallest box around the mask; zeros
            where nothing of the garment is seen.
        masks: bool (T, K, H, W): the pixels whose visible garment is this one. No pixel belongs to
            two garments.
        areas: int64 (T, K): pixels of the canvas that each garment would have with nothing in front
            of it; what is seen of it is its mask.
    """

    images: Bytes
    labels: NDArray[np.int64]
    boxes: NDArray[np.float32]
    masks: NDArray[np.bool_]
    areas: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Garments:
    """Cut-out garments: grey images, their soft silhouettes, and labels.

    Attributes:
        tone: uint8 (N, S, S).
        alpha: uint8 (N, S, S): 255 inside.
        labels: int64 (N,).
    """

    tone: Bytes
    alpha: Bytes
    labels: NDArray[np.int64]


def cut_out(images: Bytes, labels: NDArray[np.int64]) -> Garments:
    """Cut garments on black, uint8 (N, S, S), out of their background.

    A pixel is inside if it is not black, or if there are such pixels on all four sides of it (white
    garments are stored nearly black). The edge is soft: alpha rises with the grey value.
    """
    alpha = np.minimum(images.astype(np.uint16) * 5, 255).astype(np.uint8)
    reach = [
        np.maximum.accumulate(alpha, axis=1),
        np.maximum.accumulate(alpha[:, ::-1], axis=1)[:, ::-1],
        np.maximum.accumulate(alpha, axis=2),
        np.maximum.accumulate(alpha[:, :, ::-1], axis=2)[:, :, ::-1],
    ]
    return Garments(images, np.minimum.reduce(reach), labels)


class Draws:
    """Uniform numbers that depend on (key, index) alone and never change with NumPy's version.

    They are the raw words of the counter-based generator Philox (Salmon et al., SC 2011), which
    NumPy keeps stable; its distributions it may change.
    """

    def __init__(self, key: int, index: int) -> None:
        self._source = np.random.Philox(key=np.array([key, index], np.uint64))
        self._ready: list[float] = []

    def __call__(self, low: float = 0.0, high: float = 1.0) -> float:
        """The next number, uniform in [low, high)."""
        if not self._ready:
            words = self._source.random_raw(32) >> np.uint64(11)
            self._ready = (words * 2.0**-53).tolist()[::-1]
        return low + (high - low) * self._ready.pop()

    def log(self, low: float, high: float) -> float:
        """The next number, its logarithm uniform."""
        return low * math.pow(high / low, self())

    def integer(self, low: int, high: int) -> int:
        """The next number as an integer from low to high, both included."""
        return low + int(self() * (high - low + 1))


def make_scene(
    key: int,
    index: int,
    config: SceneConfig,
    backgrounds: Sequence[Array],
    garments: Garments,
) -> Scene:
    """Scene number `index` of the sequence `key`.

    Args:
        key: names the sequence: a version and a split, as one number below 2**64.
        index: number of the scene. Garments are taken in turn, so that each is used equally often:
            the scene begins with garment `index` times the greatest number of garments in a scene.
        config: what the scene is made of.
        backgrounds: `area_table` of each photograph, of values 0 to 255, (H+1, W+1, 3).
        garments: what is placed.
    """
    draw = Draws(key, index)
    canvas = background(draw, config.canvas, backgrounds)
    frames = np.repeat(canvas[None], config.frames, axis=0)
    count = draw.integer(*config.garments)
    chosen = (index * config.garments[1] + np.arange(count)) % len(garments.labels)
    masks = np.zeros((config.frames, count, *config.canvas), np.bool_)
    areas = np.zeros((config.frames, count), np.int64)
    for j, garment in enumerate(chosen):
        _place(draw, config, garments.tone[garment], garments.alpha[garment], frames, masks, j)
        areas[:, j] = masks[:, j].sum((1, 2))  # before anything is put in front
    light(draw, frames)
    images = (np.clip(frames, 0.0, 1.0) * 255 + 0.5).astype(np.uint8)
    return Scene(images, garments.labels[chosen], _boxes(masks), masks, areas)


def background(draw: Draws, canvas: tuple[int, int], backgrounds: Sequence[Array]) -> Array:
    """A random crop of a random photograph, log-uniform in scale, darkened to stay behind."""
    table = backgrounds[draw.integer(0, len(backgrounds) - 1)]
    height, width = table.shape[0] - 1, table.shape[1] - 1
    largest = min(height / canvas[0], width / canvas[1])
    step = draw.log(min(1.0, largest), largest)
    if step < 1:  # an enlarged pixel reads a whole input pixel around its centre: keep that inside
        step = min(step, (height - 1) / (canvas[0] - 1), (width - 1) / (canvas[1] - 1))
    step = min(step, height / canvas[0], width / canvas[1])
    margin = max(0.0, (1 - step) / 2)
    top = draw(margin, height - margin - step * canvas[0])
    left = draw(margin, width - margin - step * canvas[1])
    return resample(table, top, left, step, step, *canvas) * (draw(0.2, 0.7) / 255)


def _place(
    draw: Draws,
    config: SceneConfig,
    tone: Bytes,
    alpha: Bytes,
    frames: Array,
    masks: NDArray[np.bool_],
    j: int,
) -> None:
    """Paint garment `j` over `frames` (T, H, W, 3) and enter it in `masks` (T, K, H, W)."""
    height, width = config.canvas
    size = draw(*config.size)
    top, left = draw(0, height - size), draw(0, width - size)
    speed, angle = draw(*config.speed), draw(0, 2 * math.pi)
    move_y, move_x = speed * math.sin(angle), speed * math.cos(angle)
    shades, tint = colours(draw)
    coverage = alpha / 255.0
    table = area_table(np.stack([coverage, coverage * (tone / 255.0)], axis=-1))
    step = tone.shape[0] / size
    for t in range(config.frames):
        time = t - (config.frames - 1) / 2  # the drawn position is that of the middle of the clip
        y, x = top + move_y * time, left + move_x * time
        y0, y1 = max(0, math.floor(y) - 1), min(height, math.ceil(y + size) + 1)
        x0, x1 = max(0, math.floor(x) - 1), min(width, math.ceil(x + size) + 1)
        if y0 >= y1 or x0 >= x1:
            continue
        cut = resample(table, (y0 - y) * step, (x0 - x) * step, step, step, y1 - y0, x1 - x0)
        inside = cut[..., :1]
        shade = shades[0] * inside + (shades[1] - shades[0]) * cut[..., 1:]
        region = frames[t, y0:y1, x0:x1]
        region *= 1 - inside
        region += shade * tint
        seen = inside[..., 0] > 0.5
        masks[t, :j, y0:y1, x0:x1] &= ~seen
        masks[t, j, y0:y1, x0:x1] = seen


def colours(draw: Draws) -> tuple[tuple[float, float], Array]:
    """The shades of a garment's black and white, at least 0.5 apart, and its tint, (3,)."""
    contrast = draw(0.5, 0.9)
    dark = draw(0.0, 1.0 - contrast)
    tint = np.array([draw(0.4, 1.0), draw(0.4, 1.0), draw(0.4, 1.0)])
    return (dark, dark + contrast), tint / tint.max()


def light(draw: Draws, frames: Array) -> None:
    """Light the scene, in place: tone curve, colour cast, linear gradient, contrast and level.

    Contrast and black level vary more than anything else here, so that mean and spread differ
    strongly from image to image, as they do among natural photographs.
    """
    height, width = frames.shape[1:3]
    bend = draw(-0.6, 0.6)  # a gamma curve's stand-in: x + bend * x * (1 - x), monotone
    frames += bend * frames * (1 - frames)
    slope_y, slope_x = draw(-0.4, 0.4), draw(-0.4, 0.4)
    ramp = slope_y * np.linspace(-1, 1, height)[:, None] + slope_x * np.linspace(-1, 1, width)
    contrast = draw.log(0.25, 1.3)
    cast = np.array([draw(0.7, 1.0), draw(0.7, 1.0), draw(0.7, 1.0)])
    frames *= (1 + ramp)[..., None] * (contrast * cast)
    frames += draw(-0.1, 1.1 - contrast) if contrast < 1 else draw(-0.1, 0.1)


def _boxes(masks: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The smallest box around each mask: (T, K, H, W) -> float32 (T, K, 4) x0 y0 x1 y1."""
    boxes = np.zeros((*masks.shape[:2], 4), np.float32)
    for index in np.ndindex(*masks.shape[:2]):
        rows, columns = (np.flatnonzero(masks[index].any(axis=axis)) for axis in (1, 0))
        if len(rows):
            boxes[index] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return boxes
