"""Clips of one garment that moves over a photograph: its motion is the class, not what it is.

Everything about a clip is drawn in the same way for every class, which decides the path alone. The
camera moves, too, by fractions of a pixel. Lengths are drawn in sixteenths of the canvas, so that a
larger canvas has the same clips in more pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from groupnorm.data.synthetic.resample import Array, area_matrices
from groupnorm.data.synthetic.scenes import Bytes, Draws, Garments, background, colours, light

SIXTEENTHS = 16  # the canvas in the unit in which lengths are drawn
LEAST_FRAMES = 10  # a turn or a pause lies up to 4 frames from the middle
SIZE = (6.0, 8.0)  # side of a garment's square, in sixteenths of the canvas
PAN = 0.25  # greatest speed of the camera, in sixteenths of the canvas a frame
_PAUSE = 4.0  # frames
_FASTER = 1.5  # a garment that moves for a part of the clip goes about as far as another one


@dataclass(frozen=True, eq=False)
class Path:
    """The path of a garment through T frames.

    Attributes:
        offsets: float64 (T, 2), y and x of the garment's centre in pixels, downwards and to the
            right, from the middle of what the path covers.
        reach: float64 (2,), how far from there the path may lead, by its formula: the frames may
            not reach as far, and where they end must not tell the class.
        scale: float64 (T,), the garment's size as a multiple of the drawn one.
    """

    offsets: Array
    reach: Array
    scale: Array


class Parameters(NamedTuple):
    """What is drawn for a path, whatever its class."""

    speed: float  # pixels a frame
    slant: float  # radians, of what goes right, left, up or down
    angle: float  # radians, of everything else that goes along a line
    phase: float  # radians
    radius: float  # pixels
    rate: float  # radians a frame
    amplitude: float  # pixels
    frequency: float  # cycles a frame
    zoom: float  # the last frame's size as a multiple of the first one's
    bend: float  # frames from the middle, of a turn or a pause


def draw_parameters(draw: Draws, unit: float = 1.0) -> Parameters:
    """The parameters of one clip; `unit` is a sixteenth of the canvas in pixels."""
    return Parameters(
        speed=draw(0.35, 0.55) * unit,
        slant=draw(-0.35, 0.35),
        angle=draw(0, 2 * math.pi),
        phase=draw(0, 2 * math.pi),
        radius=draw(2.5, 3.5) * unit,
        rate=math.radians(draw(25, 40)),
        amplitude=draw(2.5, 3.5) * unit,
        frequency=draw(0.10, 0.15),
        zoom=draw(1.7, 2.2),
        bend=draw(-2, 2),
    )


def straight(times: Array, speed: float, angle: float) -> Path:
    """Along a line at constant speed."""
    return pause(times, speed, angle, 0.0, 0.0)


def pause(times: Array, speed: float, angle: float, begin: float, end: float) -> Path:
    """Along a line, at rest from one time to another.

    Rest up to the last frame is a stop, rest from the first frame on is a start.
    """
    along = speed * (np.minimum(times, begin) + np.maximum(times, end))
    offsets = along[:, None] * _direction(angle)
    return _centred(offsets, offsets[[0, -1]])


def turn(times: Array, speed: float, angle: float, at: float, by: float) -> Path:
    """Along a line, with a turn `by` so many radians at a time, clockwise where it is positive."""
    before = speed * np.minimum(times - at, 0.0)[:, None] * _direction(angle)
    offsets = before + speed * np.maximum(times - at, 0.0)[:, None] * _direction(angle + by)
    return _centred(offsets, np.stack([offsets[0], np.zeros(2), offsets[-1]]))


def circle(times: Array, radius: float, rate: float, phase: float) -> Path:
    """On a circle by `rate` radians a frame, clockwise on the screen where it is positive."""
    turned = phase + rate * times
    offsets = radius * np.stack([np.sin(turned), np.cos(turned)], axis=1)
    return Path(offsets, np.full(2, radius), np.ones(len(times)))


def oscillation(
    times: Array, amplitude: float, frequency: float, phase: float, angle: float
) -> Path:
    """To and fro along a line, a cosine of `frequency` cycles a frame."""
    along = amplitude * np.cos(2 * math.pi * frequency * times + phase)
    direction = _direction(angle)
    return Path(along[:, None] * direction, amplitude * abs(direction), np.ones(len(times)))


def growth(times: Array, zoom: float) -> Path:
    """In one place; the size grows exponentially, by `zoom` from the first frame to the last."""
    scale = np.power(zoom, times / (times[-1] - times[0]))
    return Path(np.zeros((len(times), 2)), np.zeros(2), scale)


MOTIONS: dict[str, Callable[[Array, Parameters], Path]] = {
    "right": lambda t, p: straight(t, p.speed, p.slant),
    "left": lambda t, p: straight(t, p.speed, p.slant + math.pi),
    "down": lambda t, p: straight(t, p.speed, p.slant + math.pi / 2),
    "up": lambda t, p: straight(t, p.speed, p.slant - math.pi / 2),
    "cw": lambda t, p: circle(t, p.radius, p.rate, p.phase),
    "ccw": lambda t, p: circle(t, p.radius, -p.rate, p.phase),
    "swing": lambda t, p: oscillation(t, p.amplitude, p.frequency, p.phase, p.angle),
    "shake": lambda t, p: oscillation(t, p.amplitude, 0.5 - p.frequency, p.phase, p.angle),
    "near": lambda t, p: growth(t, p.zoom),
    "far": lambda t, p: growth(t, 1 / p.zoom),
    "turn-right": lambda t, p: turn(t, p.speed, p.angle, p.bend, math.pi / 2),
    "turn-left": lambda t, p: turn(t, p.speed, p.angle, p.bend, -math.pi / 2),
    "stop": lambda t, p: pause(t, _FASTER * p.speed, p.angle, p.bend, t[-1]),
    "start": lambda t, p: pause(t, _FASTER * p.speed, p.angle, t[0], p.bend),
    "pause": lambda t, p: pause(
        t, _FASTER * p.speed, p.angle, p.bend - _PAUSE / 2, p.bend + _PAUSE / 2
    ),
}
"""Class -> its path, from the times of the frames and what is drawn. A swing of f cycles a frame
and a shake of 1/2 - f are aliases in every second frame: of the same distribution there."""
MIRRORED = {
    "right": "left",
    "left": "right",
    "cw": "ccw",
    "ccw": "cw",
    "turn-right": "turn-left",
    "turn-left": "turn-right",
}
"""What a motion is after a horizontal flip; one that is not here stays what it is."""


def frame_times(frames: int) -> Array:
    """The times of `frames` frames, in frames from the middle of the clip."""
    return np.arange(frames, dtype=np.float64) - (frames - 1) / 2


def class_labels(key: int, count: int, classes: int) -> NDArray[np.int64]:
    """The labels of the first `count` clips, (count,).

    Every class comes once among clips 0 to K - 1, once among K to 2K - 1, and so on, in random
    order: a label depends on the clip's number alone.
    """
    labels = []
    for block in range(-(-count // classes)):
        draw = Draws(key, block)
        labels.append(np.argsort([draw() for _ in range(classes)], kind="stable"))
    return np.concatenate(labels)[:count].astype(np.int64)


def make_clip(
    key: int,
    index: int,
    motion: str,
    canvas: int,
    frames: int,
    backgrounds: Sequence[Array],
    garments: Garments,
) -> Bytes:
    """Clip number `index` of the sequence `key`.

    Args:
        key: names the sequence: a version and a split, as one number below 2**64.
        index: number of the clip. Garments are taken in turn.
        motion: one of MOTIONS.
        canvas: height and width in pixels.
        frames: T, at least LEAST_FRAMES.
        backgrounds: `area_table` of each photograph, of values 0 to 255, (H+1, W+1, 3).
        garments: what moves.

    Returns:
        uint8 (T, canvas, canvas, 3).

    Raises:
        ValueError: too few frames for a turn or a pause in them.
    """
    if frames < LEAST_FRAMES:
        raise ValueError(f"expected at least {LEAST_FRAMES} frames, got {frames}")
    draw = Draws(key, index)
    unit = canvas / SIXTEENTHS
    path = MOTIONS[motion](frame_times(frames), draw_parameters(draw, unit))
    size = draw(*SIZE) * unit
    room = np.maximum(0.0, canvas - size * path.scale.max() - 2 * path.reach)
    place = np.array([draw(), draw()])
    centres = canvas / 2 + (place - 0.5) * room + path.offsets
    shades, tint = colours(draw)
    clip = moving_background(draw, canvas, frames, PAN * unit, backgrounds)
    garment = index % len(garments.labels)
    alpha = garments.alpha[garment] / 255.0
    picture = np.stack([alpha, alpha * (garments.tone[garment] / 255.0)], axis=-1)
    steps = len(picture) / (size * path.scale)
    starts = len(picture) / 2 - centres * steps[:, None]  # where the canvas begins in the picture
    cut = cover(picture, starts, steps, canvas)
    inside = cut[..., :1]
    shade = shades[0] * inside + (shades[1] - shades[0]) * cut[..., 1:]
    clip *= 1 - inside
    clip += shade * tint
    light(draw, clip)
    return (np.clip(clip, 0.0, 1.0) * 255 + 0.5).astype(np.uint8)


def moving_background(
    draw: Draws, canvas: int, frames: int, fastest: float, backgrounds: Sequence[Array]
) -> Array:
    """What a moving camera sees of a photograph: (T, canvas, canvas, 3), values from 0 to 1.

    It moves at constant speed, of which `fastest` is the greatest, in pixels a frame. The crop of
    the photograph is larger than the canvas by the way it goes.
    """
    speed = draw(0, fastest)
    velocity = speed * _direction(draw(0, 2 * math.pi))
    way = velocity * (frames - 1)
    sides = canvas + np.ceil(abs(way)).astype(int)
    crop = background(draw, (int(sides[0]), int(sides[1])), backgrounds)
    starts = np.arange(frames)[:, None] * velocity - np.minimum(0.0, way)
    return cover(crop, starts, np.ones(frames), canvas)


def cover(image: Array, starts: Array, steps: Array, canvas: int) -> Array:
    """Means of an image over the pixels of a canvas in every frame: (H, W, C) -> (T, S, S, C).

    Args:
        image: (H, W, C); zero outside.
        starts: (T, 2), y and x of the canvas' upper left corner in the image's pixels.
        steps: (T,), the image's pixels per pixel of the canvas.
        canvas: S.
    """
    height, width, channels = image.shape
    rows = area_matrices(starts[:, 0], steps, canvas, height)
    columns = area_matrices(starts[:, 1], steps, canvas, width)
    # few large products: (T S, H) by (H, C W), then (S C, W) by (W, S) in each frame
    planes = np.ascontiguousarray(image.transpose(0, 2, 1)).reshape(height, -1)
    cut = (rows.reshape(-1, height) @ planes).reshape(len(steps), -1, width)
    means = cut @ columns.transpose(0, 2, 1)
    ordered = means.reshape(len(steps), canvas, channels, canvas).transpose(0, 1, 3, 2)
    return np.ascontiguousarray(ordered)


def _centred(offsets: Array, corners: Array) -> Path:
    """The path along `offsets` (T, 2), moved to the middle of its corners (K, 2)."""
    low, high = corners.min(axis=0), corners.max(axis=0)
    return Path(offsets - (low + high) / 2, (high - low) / 2, np.ones(len(offsets)))


def _direction(angle: float) -> Array:
    """The unit vector (y, x), y downwards."""
    return np.array([math.sin(angle), math.cos(angle)])
