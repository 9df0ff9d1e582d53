"""Paths as functions of the frame, the moving camera, and what a clip depends on."""

import hashlib
import math

import numpy as np
import pytest
import torch

from groupnorm.data.synthetic import motion
from groupnorm.data.synthetic.motion import (
    MIRRORED,
    MOTIONS,
    class_labels,
    draw_parameters,
    frame_times,
    make_clip,
    moving_background,
)
from groupnorm.data.synthetic.resample import area_table
from groupnorm.data.synthetic.scenes import Draws, Garments
from groupnorm.data.video.clips import Sampling, VideoSet, evaluation_starts
from groupnorm.data.video.memory import VideosInMemory
from tests.tolerances import DOUBLE, FORMULA_64, HUNDREDTH, SAMPLED_MEAN

KEY = 11
FRAMES = 20
TIMES = frame_times(FRAMES)


@pytest.fixture(scope="module")
def backgrounds():
    rng = np.random.default_rng(0)
    return [area_table(rng.integers(0, 256, shape)) for shape in [(60, 80, 3), (48, 30, 3)]]


@pytest.fixture(scope="module")
def garments():
    """Discs with a texture."""
    y, x = np.mgrid[:28, :28] - 13.5
    texture = np.random.default_rng(1).integers(100, 256, (10, 28, 28))
    inside = np.broadcast_to(np.hypot(y, x) < 12, texture.shape)
    alpha = np.where(inside, 255, 0).astype(np.uint8)
    return Garments((texture * inside).astype(np.uint8), alpha, np.arange(10))


def parameters(index):
    return draw_parameters(Draws(KEY, index))


def heading(path):
    """The direction of the path from frame to frame, in radians, y downwards."""
    steps = np.diff(path.offsets, axis=0)
    return np.arctan2(steps[:, 0], steps[:, 1])


def speeds(path):
    return np.hypot(*np.diff(path.offsets, axis=0).T)


@pytest.mark.parametrize("name", MOTIONS)
def test_a_path_reaches_as_far_as_its_formula_says(name):
    """The middle of what it covers is zero; no frame lies outside, and some come close."""
    closest = 1.0
    for index in range(200):
        path = MOTIONS[name](TIMES, parameters(index))
        assert path.offsets.shape == (FRAMES, 2)
        assert path.scale.shape == (FRAMES,)
        assert (abs(path.offsets) <= path.reach + DOUBLE).all()
        low, high = path.offsets.min(0), path.offsets.max(0)
        closest = min(closest, (path.reach - high).max(), (path.reach + low).max())
    assert closest < HUNDREDTH


@pytest.mark.parametrize(
    ("name", "direction"), [("right", 0), ("down", 90), ("left", 180), ("up", -90)]
)
def test_straight_paths(name, direction):
    """At the drawn speed, and at most 20 degrees from where the name says."""
    for index in range(50):
        drawn = parameters(index)
        path = MOTIONS[name](TIMES, drawn)
        np.testing.assert_allclose(speeds(path), drawn.speed)
        off = np.remainder(np.degrees(heading(path)) - direction + 180, 360) - 180
        assert (abs(off) < 20.1).all()
        np.testing.assert_allclose(off, np.degrees(drawn.slant))


def test_circles():
    """`cw` comes from the right to the bottom of its circle, as the hands of a clock."""
    for name, sign in (("cw", 1), ("ccw", -1)):
        drawn = parameters(0)._replace(phase=0.0)
        path = MOTIONS[name](np.array([0.0, math.pi / 2 / drawn.rate]), drawn)
        np.testing.assert_allclose(
            path.offsets, drawn.radius * np.array([[0, 1], [sign, 0]]), atol=DOUBLE
        )
        path = MOTIONS[name](TIMES, parameters(3))
        np.testing.assert_allclose(np.hypot(*path.offsets.T), parameters(3).radius)
        turns = np.remainder(np.diff(heading(path)) + math.pi, 2 * math.pi) - math.pi
        np.testing.assert_allclose(turns, sign * parameters(3).rate)


def test_growth():
    for index in range(20):
        drawn = parameters(index)
        near, far = (MOTIONS[name](TIMES, drawn) for name in ("near", "far"))
        np.testing.assert_allclose(near.scale[-1] / near.scale[0], drawn.zoom)
        np.testing.assert_allclose(near.scale, far.scale[::-1])
        np.testing.assert_allclose(near.scale[1:] / near.scale[:-1], drawn.zoom ** (1 / 19))
        assert not near.offsets.any()


def aliased(name, drawn, start):
    """The path of the other class with the phase that makes it the same in every second frame."""
    time = TIMES[start]
    other = {"swing": "shake", "shake": "swing"}[name]
    return MOTIONS[other](TIMES, drawn._replace(phase=-drawn.phase - math.pi * time))


@pytest.mark.parametrize("name", ["swing", "shake"])
def test_swing_and_shake_are_aliases_at_stride_2(name):
    """One phase, uniform on the circle, is another one there: the distributions are the same."""
    for index in range(100):
        for start in range(5):
            drawn = parameters(index)
            path, other = MOTIONS[name](TIMES, drawn), aliased(name, drawn, start)
            np.testing.assert_allclose(path.offsets[start::2], other.offsets[start::2], atol=DOUBLE)
            assert (path.reach == other.reach).all()
            assert abs(path.offsets - other.offsets).max() > 1


def test_swing_and_shake_differ_at_stride_1():
    """A shake goes to and fro faster than any swing, in whatever phase."""
    largest = {"swing": 0.0, "shake": 0.0}
    smallest = {"swing": math.inf, "shake": math.inf}
    for name in largest:
        for index in range(300):
            drawn = parameters(index)
            step = speeds(MOTIONS[name](TIMES[:16], drawn)).max() / drawn.amplitude
            largest[name] = max(largest[name], step)
            smallest[name] = min(smallest[name], step)
    assert largest["swing"] < smallest["shake"]


def test_aliases_are_the_same_pictures_at_stride_2(monkeypatch, backgrounds, garments):
    def clip():
        return make_clip(KEY, 4, "swing", 16, FRAMES, backgrounds, garments).astype(int)

    swing = clip()
    monkeypatch.setitem(MOTIONS, "swing", lambda t, p: aliased("swing", p, 0))
    shake = clip()
    assert abs(swing[::2] - shake[::2]).max() <= 1  # a last place, rounded
    assert abs(swing[1::2] - shake[1::2]).max() > 20


@pytest.mark.parametrize("sampling", [Sampling(8, 2), Sampling(7, 2), Sampling(3, 4)])
def test_all_test_clips_of_a_video_together_are_those_of_an_alias(
    monkeypatch, backgrounds, garments, sampling
):
    """So the ceiling holds for the mean over them; clips of any start tell the two apart."""

    def test_clips(ceilings):
        """Those of a swing and those of the shake that is its alias from its first clip on."""
        whole = torch.from_numpy(np.stack([swing, shake]))
        labels = torch.tensor([0, 1])
        videos = VideoSet("two", "1", whole, labels, whole, labels, ("swing", "shake"), None,
                          ceilings)  # fmt: skip
        ((inputs, of_video, _, _),) = VideosInMemory(videos, sampling, test_clips=10).test()
        pixels = inputs * videos.std.view(3, 1, 1, 1) * 255
        return pixels[of_video == 0], pixels[of_video == 1]

    swing = make_clip(KEY, 4, "swing", 16, FRAMES, backgrounds, garments)
    middle = evaluation_starts(FRAMES, sampling, 1)[0]
    monkeypatch.setitem(MOTIONS, "swing", lambda t, p: aliased("swing", p, middle % 2))
    shake = make_clip(KEY, 4, "swing", 16, FRAMES, backgrounds, garments)
    one, other = test_clips({sampling.stride: 50.0})
    assert abs(one - other).max() < 1.5, "a last place, rounded"
    one, other = test_clips(None)
    assert abs(one - other).max() > 20


@pytest.mark.parametrize("name", MOTIONS)
def test_flipped_paths_are_those_of_the_flipped_class(name):
    """A flip maps what is drawn for a class onto what is as likely drawn for the other."""
    for index in range(20):
        drawn = parameters(index)
        circles = name in ("cw", "ccw")
        flipped = drawn._replace(
            slant=-drawn.slant,
            angle=math.pi - drawn.angle,
            phase=math.pi - drawn.phase if circles else drawn.phase,
        )
        path = MOTIONS[name](TIMES, drawn)
        other = MOTIONS[MIRRORED.get(name, name)](TIMES, flipped)
        np.testing.assert_allclose(path.offsets * [1, -1], other.offsets, atol=DOUBLE)
        np.testing.assert_allclose(path.reach, other.reach, atol=DOUBLE)
        assert (path.scale == other.scale).all()


def centroids(clip):
    """Where the light is: (T, 2) y, x of uint8 (T, H, W, 3)."""
    bright = clip.sum(-1).astype(float)
    bright -= bright.min()
    bright[bright < bright.max() / 2] = 0
    y, x = np.mgrid[: clip.shape[1], : clip.shape[2]]
    return np.stack([(bright * axis).sum((1, 2)) / bright.sum((1, 2)) for axis in (y, x)], 1)


@pytest.mark.parametrize("name", ["right", "left", "down", "up", "cw", "ccw"])
def test_a_flipped_clip_shows_the_flipped_class(name):
    """White garments on black, seen by where the light goes."""
    black = [area_table(np.zeros((80, 80, 3)))]
    white = np.full((1, 28, 28), 255, np.uint8)
    for index in range(5):
        garment = Garments(white, white, np.zeros(1, np.int64))
        clip = make_clip(KEY, index, name, 32, FRAMES, black, garment)
        for pictures, shown in ((clip, name), (clip[:, :, ::-1], MIRRORED.get(name, name))):
            places = centroids(pictures)
            way = places[-1] - places[0]
            around = places - places.mean(0)
            # by how much it goes round, counterclockwise on the screen
            turned = (around[:-1, 0] * around[1:, 1] - around[:-1, 1] * around[1:, 0]).sum()
            found = {
                "right": way[1], "left": -way[1], "down": way[0], "up": -way[0],
                "cw": -turned / 10, "ccw": turned / 10,
            }  # fmt: skip
            assert max(found, key=found.get) == shown


def test_turns():
    for index in range(50):
        drawn = parameters(index)
        for name, sign in (("turn-right", 1), ("turn-left", -1)):
            path = MOTIONS[name](TIMES, drawn)
            directions = heading(path)
            before, after = TIMES[1:] <= drawn.bend, TIMES[:-1] >= drawn.bend
            assert before.sum() + after.sum() == FRAMES - 2  # the turn is within one step
            np.testing.assert_allclose(speeds(path)[before | after], drawn.speed)
            np.testing.assert_allclose(np.cos(directions[before] - drawn.angle), 1)
            np.testing.assert_allclose(np.sin(directions[after] - drawn.angle), sign)
    assert len({math.ceil(parameters(index).bend) for index in range(50)}) == 4


def test_pauses():
    for index in range(50):
        drawn = parameters(index)
        paths = {name: speeds(MOTIONS[name](TIMES, drawn)) for name in ("stop", "start", "pause")}
        late, early = TIMES[:-1] >= drawn.bend, TIMES[1:] <= drawn.bend
        np.testing.assert_allclose(paths["stop"][late], 0, atol=DOUBLE)
        np.testing.assert_allclose(paths["stop"][early], 1.5 * drawn.speed)
        np.testing.assert_allclose(paths["start"][early], 0, atol=DOUBLE)
        np.testing.assert_allclose(paths["start"][late], 1.5 * drawn.speed)
        resting = (TIMES[:-1] >= drawn.bend - 2) & (TIMES[1:] <= drawn.bend + 2)
        moving = (TIMES[1:] <= drawn.bend - 2) | (TIMES[:-1] >= drawn.bend + 2)
        assert resting.sum() == 3
        np.testing.assert_allclose(paths["pause"][resting], 0, atol=DOUBLE)
        np.testing.assert_allclose(paths["pause"][moving], 1.5 * drawn.speed)


def test_the_camera_moves_by_fractions_of_a_pixel(monkeypatch):
    """Over a ramp every pixel changes by the same amount from frame to frame."""
    crops = []

    def ramp(draw, sides, backgrounds):
        crops.append(sides)
        y, x = np.mgrid[: sides[0], : sides[1]]
        return np.stack([y, x, y + x], axis=-1) * 1.0

    monkeypatch.setattr(motion, "background", ramp)
    velocities = []
    for index in range(50):
        clip = moving_background(Draws(KEY, index), 16, FRAMES, 0.25, [])
        assert clip.shape == (FRAMES, 16, 16, 3)
        assert (clip >= 0).all()
        assert clip[..., 0].max() <= crops[-1][0] - 1
        assert clip[..., 1].max() <= crops[-1][1] - 1
        np.testing.assert_allclose(np.diff(clip[..., 1], axis=2), 1)
        per_frame = np.diff(clip, axis=0)
        steps = per_frame[0, 0, 0]
        np.testing.assert_allclose(per_frame, np.broadcast_to(steps, per_frame.shape), atol=DOUBLE)
        velocities.append(steps[:2])
    speeds = np.hypot(*np.transpose(velocities))
    assert speeds.max() <= 0.25
    assert 0.1 < speeds.mean() < 0.15
    assert (abs(np.mean(velocities, axis=0)) < SAMPLED_MEAN).all()  # in all directions
    assert all(max(sides) <= 16 + 5 for sides in crops)


def test_a_still_camera_and_the_edges_of_a_photograph():
    white = [area_table(np.full((24, 40, 3), 255.0))]  # smaller than some crops: enlarged
    for index in range(20):
        clip = moving_background(Draws(KEY, index), 16, FRAMES, 0.6, white)
        np.testing.assert_allclose(clip, clip[0, 0, 0, 0], rtol=FORMULA_64)
        assert 0.2 <= clip.min() <= 0.7
    noise = [area_table(np.random.default_rng(0).random((60, 60, 3)))]
    still = moving_background(Draws(KEY, 0), 16, FRAMES, 0.0, noise)
    assert (still == still[0]).all()


def test_the_class_decides_the_path_alone(backgrounds, garments):
    """Without anything seen of the garment, every class shows the same clip."""
    hidden = Garments(garments.tone, np.zeros_like(garments.alpha), garments.labels)
    first, *others = (make_clip(KEY, 2, name, 16, FRAMES, backgrounds, hidden) for name in MOTIONS)
    assert first.dtype == np.uint8
    assert first.shape == (FRAMES, 16, 16, 3)
    assert first.flags.c_contiguous
    assert all((first == other).all() for other in others)


def test_a_larger_canvas_has_the_same_paths_in_more_pixels(garments):
    black = [area_table(np.zeros((80, 80, 3)))]
    for index, name in enumerate(MOTIONS):
        small = make_clip(KEY, index, name, 16, FRAMES, black, garments)
        large = make_clip(KEY, index, name, 32, FRAMES, black, garments)
        assert large.shape == (FRAMES, 32, 32, 3)
        shrunk = large.reshape(FRAMES, 16, 2, 16, 2, 3).mean((2, 4))
        assert abs(shrunk - small).mean() < HUNDREDTH * np.ptp(small)


def test_garments_are_taken_in_turn(monkeypatch, backgrounds, garments):
    def clip(index, tone):
        changed = Garments(tone, garments.alpha, garments.labels)
        return make_clip(KEY, index, "cw", 16, FRAMES, backgrounds, changed)

    other = garments.tone.copy()
    other[3] = 255 - other[3]
    for index in (3, 13, 4):
        same = (clip(index, garments.tone) == clip(index, other)).all()
        assert same == (index == 4)


def test_a_clip_depends_on_key_and_number_alone(backgrounds, garments):
    def clip(key, index):
        return make_clip(key, index, "swing", 16, FRAMES, backgrounds, garments)

    seven = clip(KEY, 7)
    clip(KEY, 8)
    assert (clip(KEY, 7) == seven).all()
    assert (clip(KEY, 8) != seven).any()
    assert (clip(KEY + 1, 7) != seven).any()


def test_too_few_frames_for_a_turn(backgrounds, garments):
    with pytest.raises(ValueError, match="at least 10 frames, got 9"):
        make_clip(KEY, 0, "turn-left", 16, 9, backgrounds, garments)


def test_labels():
    """Balanced among the first 10, 20, ... clips, in random order, whatever their number."""
    labels = class_labels(KEY, 1000, 10)
    assert labels.dtype == np.int64
    assert (np.sort(labels.reshape(100, 10)) == np.arange(10)).all()
    assert (class_labels(KEY, 37, 10) == labels[:37]).all()
    assert len({tuple(block) for block in labels.reshape(100, 10)}) > 95
    counts = np.bincount(labels.reshape(100, 10)[:, 0], minlength=10)
    assert counts.min() >= 2  # no place in a block belongs to a class
    assert counts.max() <= 20
    assert (class_labels(KEY + 1, 1000, 10) != labels).any()


def test_pixels_of_this_version(backgrounds, garments):
    """The recipe is pinned: when this digest changes, raise garments_motion.VERSION."""
    digest = hashlib.sha256()
    for index, name in enumerate(MOTIONS):
        for canvas in (16, 24):
            clip = make_clip(KEY, index, name, canvas, FRAMES, backgrounds, garments)
            digest.update(clip.tobytes())
    assert digest.hexdigest() == "0fa3f0bbc09898a7ab992f940ffef78bd5b6cace91fdf6e2eabb357b5f1da2e5"
    assert motion.LEAST_FRAMES <= FRAMES
