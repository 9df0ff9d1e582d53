"""A few scenes of `garments`, small, in a folder that the data set `coco` is read from."""

import functools
import tempfile
from pathlib import Path

from groupnorm.data.sets.garments import Variant, write
from groupnorm.data.synthetic.scenes import SceneConfig

SIDE = 64
FIELDS = {
    "task": "detection", "data": "coco", "short_side": SIDE, "norm": "gn:groups=8",
    "norms": {"mask_head": "none"}, "head_init": "he", "workers": 2, "batch_per_worker": 2,
    "base_lr": 0.06, "warmup_steps": 2, "schedule": "cosine", "clip_norm": 10.0, "steps": 4,
}  # fmt: skip


@functools.cache
def tiny_garments(train=16, test=6):
    """The folder, for `data_root`; one for all tests of a process."""
    folder = tempfile.TemporaryDirectory(prefix="garments-")
    _FOLDERS.append(folder)
    scene = SceneConfig((SIDE, SIDE), (1, 3), (20.0, 40.0))
    write(Path(folder.name), Variant("tiny", scene, True, (train, test)))
    return Path(folder.name)


_FOLDERS = []
