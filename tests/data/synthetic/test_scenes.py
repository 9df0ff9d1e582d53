"""Scenes: exact masks and boxes, motion, lighting, and what a scene depends on."""

import hashlib

import numpy as np
import pytest

from groupnorm.data.synthetic.resample import area_table
from groupnorm.data.synthetic.scenes import (
    Draws,
    Garments,
    SceneConfig,
    background,
    cut_out,
    make_scene,
)
from tests.tolerances import DOUBLE, SAMPLED_MEAN

KEY = 11
SEVERAL = SceneConfig(canvas=(48, 40), garments=(2, 4), size=(12, 24), frames=1)
CLIP = SceneConfig(canvas=(40, 48), garments=(1, 3), size=(12, 20), frames=5, speed=(1.0, 3.0))


@pytest.fixture(scope="module")
def backgrounds():
    rng = np.random.default_rng(0)
    shapes = [(60, 80, 3), (48, 48, 3), (120, 50, 3)]
    return [area_table(rng.integers(0, 256, shape)) for shape in shapes]


@pytest.fixture(scope="module")
def garments():
    """Discs and squares with a texture."""
    y, x = np.mgrid[:28, :28] - 13.5
    shapes = [np.hypot(y, x) < 12, np.maximum(abs(y), abs(x)) < 9]
    texture = np.random.default_rng(1).integers(100, 256, (10, 28, 28))
    images = np.stack([texture[i] * shapes[i % 2] for i in range(10)]).astype(np.uint8)
    return cut_out(images, np.arange(10) % 2)


def solid(garments):
    """The same garments as full squares: every pixel inside."""
    return Garments(garments.tone, np.full_like(garments.tone, 255), garments.labels)


@pytest.mark.parametrize("config", [SceneConfig(), SEVERAL, CLIP], ids=["one", "several", "clip"])
def test_shapes_and_types(config, backgrounds, garments):
    counts = set()
    for index in range(20):
        scene = make_scene(KEY, index, config, backgrounds, garments)
        count = len(scene.labels)
        counts.add(count)
        assert scene.images.dtype == np.uint8
        assert scene.images.shape == (config.frames, *config.canvas, 3)
        assert scene.masks.dtype == np.bool_
        assert scene.masks.shape == (config.frames, count, *config.canvas)
        assert scene.boxes.dtype == np.float32
        assert scene.boxes.shape == (config.frames, count, 4)
        assert scene.labels.dtype == np.int64
        assert scene.areas.shape == (config.frames, count)
    assert counts == set(range(config.garments[0], config.garments[1] + 1))


@pytest.mark.parametrize("config", [SEVERAL, CLIP], ids=["several", "clip"])
def test_masks_are_disjoint_and_boxes_tight(config, backgrounds, garments):
    for index in range(20):
        scene = make_scene(KEY, index, config, backgrounds, garments)
        assert scene.masks.sum(1).max() <= 1
        for t, j in np.ndindex(*scene.boxes.shape[:2]):
            mask, box = scene.masks[t, j], scene.boxes[t, j]
            if not mask.any():
                assert (box == 0).all()
                continue
            x0, y0, x1, y1 = box.astype(int)
            assert mask[y0:y1, x0:x1].sum() == mask.sum()
            inside = mask[y0:y1, x0:x1]
            assert inside[0].any()
            assert inside[-1].any()
            assert inside[:, 0].any()
            assert inside[:, -1].any()


def neighbourhood(mask):
    """The pixels of a mask and their eight neighbours."""
    padded = np.pad(mask, 1)
    height, width = mask.shape
    return np.logical_or.reduce(
        [padded[y : y + height, x : x + width] for y in range(3) for x in range(3)]
    )


def test_masks_are_the_pixels_that_change_with_the_garment(backgrounds, garments):
    """Repainting one garment changes pixels of its mask, and beyond it at most a soft edge.

    The edge is its own, one pixel wide, or that of a garment in front, through which it shines.
    """
    flat = solid(garments)
    config = SceneConfig(canvas=(48, 48), garments=(3, 3), size=(14, 22))
    checked = 0
    for index in range(30):
        scene = make_scene(KEY, index, config, backgrounds, flat)
        for j in range(3):
            garment = (index * 3 + j) % len(flat.labels)
            tone = flat.tone.copy()
            tone[garment] = 255 - tone[garment]
            repainted = Garments(tone, flat.alpha, flat.labels)
            other = make_scene(KEY, index, config, backgrounds, repainted)
            changed = (scene.images[0] != other.images[0]).any(-1)
            mask, front = scene.masks[0, j], scene.masks[0, j + 1 :].any(0)
            assert not (changed & ~neighbourhood(mask) & ~neighbourhood(front)).any()
            if mask.sum() > 60:
                assert changed[mask].mean() > 0.75
                checked += 1
    assert checked > 50


def test_a_mask_holds_the_pixels_covered_by_more_than_half(backgrounds, garments):
    """Wherever a square of 20 pixels lies, 20 rows and 20 columns are covered by more than half."""
    config = SceneConfig(canvas=(40, 40), size=(20, 20))
    places = set()
    for index in range(30):
        scene = make_scene(KEY, index, config, backgrounds, solid(garments))
        x0, y0, x1, y1 = scene.boxes[0, 0].tolist()
        assert (x1 - x0, y1 - y0) == (20, 20)
        assert scene.masks.sum() >= 20 * 20 - 4  # a corner may be covered by less
        places.add((x0, y0))
    assert len(places) > 20


def test_a_later_garment_hides_an_earlier_one(backgrounds, garments):
    """Without the last garment's alpha the earlier ones' masks only grow."""
    hidden = 0
    for index in range(30):
        config = SceneConfig(canvas=(40, 40), garments=(2, 2), size=(20, 30))
        scene = make_scene(KEY, index, config, backgrounds, garments)
        alpha = garments.alpha.copy()
        alpha[(index * 2 + 1) % len(alpha)] = 0
        bare = make_scene(
            KEY, index, config, backgrounds, Garments(garments.tone, alpha, garments.labels)
        )
        assert not bare.masks[0, 1].any()
        lost = bare.masks[0, 0] & ~scene.masks[0, 0]
        assert not (scene.masks[0, 0] & ~bare.masks[0, 0]).any()
        assert (scene.masks[0, 1] >= lost).all()
        hidden += int(lost.sum())
    assert hidden > 1000


def test_areas_are_those_of_garments_with_nothing_in_front(backgrounds, garments):
    """Each garment's area is its mask's in the scene without the later ones."""
    config = SceneConfig(canvas=(40, 40), garments=(3, 3), size=(16, 30), frames=2, speed=(1, 2))
    less = 0
    for index in range(15):
        scene = make_scene(KEY, index, config, backgrounds, garments)
        assert scene.areas.dtype == np.int64
        assert scene.areas.shape == (2, 3)
        assert (scene.areas[:, 2] == scene.masks[:, 2].sum((1, 2))).all()
        for j in range(3):
            alpha = garments.alpha.copy()
            for later in range(j + 1, 3):
                alpha[(index * 3 + later) % len(alpha)] = 0
            bare = make_scene(
                KEY, index, config, backgrounds, Garments(garments.tone, alpha, garments.labels)
            )
            assert (scene.areas[:, j] == bare.masks[:, j].sum((1, 2))).all()
        less += int((scene.masks.sum((2, 3)) < scene.areas).sum())
    assert less > 20


def test_garments_move_in_straight_lines(backgrounds, garments):
    config = SceneConfig(canvas=(64, 64), size=(14, 14), frames=5, speed=(2.0, 3.0))
    roomy = 0
    for index in range(30):
        scene = make_scene(KEY, index, config, backgrounds, solid(garments))
        boxes = scene.boxes[:, 0]
        if (boxes[:, :2] < 1).any() or (boxes[:, 2:] > 63).any():
            continue  # leaves the canvas: its box is cut there
        roomy += 1
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        steps = np.diff(centres, axis=0)
        assert np.ptp(steps, axis=0).max() <= 1.01  # boxes are whole pixels
        assert 1.6 < np.hypot(*(centres[-1] - centres[0])) / 4 < 3.4
    assert roomy > 10


def test_frames_share_background_and_lighting(backgrounds, garments):
    scene = make_scene(KEY, 3, CLIP, backgrounds, garments)
    away = ~scene.masks.any((0, 1))
    for shift in ((0, 2), (0, -2), (1, 2), (1, -2)):
        away &= np.roll(away, shift[1], shift[0])
    assert away.sum() > 50
    assert (scene.images[:, away] == scene.images[0, away]).all()


def test_one_frame_is_the_middle_of_a_clip(backgrounds, garments):
    single = make_scene(KEY, 5, SceneConfig(), backgrounds, garments)
    clip = make_scene(KEY, 5, SceneConfig(frames=3), backgrounds, garments)
    assert (clip.images == single.images).all()


def test_a_scene_depends_on_key_and_number_alone(backgrounds, garments):
    def picture(key, index):
        return make_scene(key, index, SceneConfig(), backgrounds, garments).images

    seven = picture(KEY, 7)
    picture(KEY, 8)
    assert (picture(KEY, 7) == seven).all()
    assert (picture(KEY, 8) != seven).any()
    assert (picture(KEY + 1, 7) != seven).any()


def test_pixels_of_this_version(backgrounds, garments):
    """The recipe is pinned: when this digest changes, raise fashion_scenes.VERSION."""
    digest = hashlib.sha256()
    for config in (SceneConfig(), SEVERAL, CLIP):
        for index in range(5):
            scene = make_scene(KEY, index, config, backgrounds, garments)
            digest.update(scene.images.tobytes() + scene.masks.tobytes())
    assert digest.hexdigest() == "d2db0af4022d5a71f21f293eed19142383f8083360a2d9b048fd999bb3d114af"


def test_each_garment_is_used_equally_often(backgrounds, garments):
    labels = Garments(garments.tone, garments.alpha, np.arange(10))
    used = [make_scene(KEY, i, SceneConfig(), backgrounds, labels).labels[0] for i in range(30)]
    assert (np.bincount(used, minlength=10) == 3).all()


def test_cut_out_fills_what_is_enclosed():
    image = np.zeros((1, 9, 9), np.uint8)
    image[0, 2:7, 2:7] = 200
    image[0, 3:6, 3:6] = 0  # a white print, stored black
    garments = cut_out(image, np.zeros(1, np.int64))
    expected = np.zeros((9, 9), np.uint8)
    expected[2:7, 2:7] = 255
    assert (garments.alpha[0] == expected).all()
    image[0, 3:7, 4] = 0  # open at the bottom, as between two legs
    assert cut_out(image, garments.labels).alpha[0, 6, 4] == 0
    faint = np.where(expected > 0, 20, 0).astype(np.uint8)[None]
    assert set(np.unique(cut_out(faint, garments.labels).alpha)) == {0, 100}


def test_draws():
    draw = Draws(1, 2)
    values = np.array([draw(2.0, 5.0) for _ in range(4000)])
    assert 2 <= values.min() < 2.01
    assert 4.99 < values.max() < 5
    assert abs(values.mean() - 3.5) < SAMPLED_MEAN * 3 / 12**0.5
    assert len(np.unique(values)) == 4000
    counts = np.bincount([draw.integer(3, 5) for _ in range(3000)])
    assert list(counts[:3]) == [0, 0, 0]
    assert (abs(counts[3:] - 1000) < 130).all()
    logarithms = np.log([draw.log(0.1, 10) for _ in range(4000)])
    assert abs(logarithms.mean()) < SAMPLED_MEAN * np.log(100) / 12**0.5
    # Philox4x64-10 with key (1, 2), counter from 1: the words themselves are pinned
    first = Draws(1, 2)
    raw = np.random.Philox(key=np.array([1, 2], np.uint64)).random_raw(2)
    assert [first(), first()] == [(int(word) >> 11) / 2**53 for word in raw]


@pytest.mark.parametrize(
    "fields",
    [
        {"size": (20.0, 40.0)},
        {"size": (0.0, 10.0)},
        {"size": (20.0, 10.0)},
        {"garments": (2, 1)},
        {"garments": (-1, 1)},
        {"frames": 0},
    ],
)
def test_impossible_configurations(fields):
    with pytest.raises(ValueError, match=r"expected|size must"):
        SceneConfig(**fields)


def test_small_photographs_are_enlarged(garments):
    """A photograph smaller than the canvas still fills it, without black borders."""
    white = [area_table(np.full((30, 50, 3), 255.0))]
    config = SceneConfig(canvas=(64, 64), garments=(0, 0), size=(20, 30))
    for index in range(10):
        scene = make_scene(KEY, index, config, white, garments)
        assert scene.labels.shape == (0,)
        # only the lighting's smooth gradient is left
        edge = np.abs(np.diff(scene.images[0].astype(int), axis=0)).max()
        assert edge <= 8


def test_no_enlarged_pixel_reaches_beyond_a_photograph():
    white = [area_table(np.full((24, 40, 3), 255.0))]
    for index, canvas in enumerate([(26, 30), (24, 45), (40, 16), (60, 60), (24, 40)]):
        crop = background(Draws(KEY, index), canvas, white)
        assert crop.shape == (*canvas, 3)
        np.testing.assert_allclose(crop, crop[0, 0, 0], rtol=DOUBLE)
