"""What is recorded of the machine and of the sources."""

import hashlib
import importlib.util
from pathlib import Path

import torch

import groupnorm
from groupnorm.environment import environment


def test_environment_names_versions_and_machine():
    env = environment()
    assert env["torch"] == torch.__version__
    assert env["cpu"]
    assert env["group_norm"].startswith(("native: C++ kernels for ", "aten: "))
    assert env["threads"] == torch.get_num_threads()


def test_environment_holds_the_digests_of_what_computes():
    env = environment()
    root = Path(groupnorm.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    assert env["sources"] == digest.hexdigest()[:12]
    kernels = importlib.util.find_spec("groupnorm.ops.group_norm.native._native")
    if kernels is None:
        assert env["kernels"] is None
    else:
        content = Path(kernels.origin).read_bytes()
        assert env["kernels"] == hashlib.sha256(content).hexdigest()[:12]
