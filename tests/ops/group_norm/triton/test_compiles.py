"""The kernels as a GPU would get them: compiled here, without a GPU and without the interpreter."""

import json
import os
import subprocess
import sys

import pytest

from tests.ops.group_norm.runners import TRITON


@pytest.mark.slow
@pytest.mark.skipif(not TRITON, reason="Triton is not installed")
def test_every_kernel_compiles_and_keeps_to_registers(tmp_path):
    """For an H200: no block spills to memory, and bfloat16 goes 16 bytes at a time.

    The smallest part of a block that a thread holds is 64 bytes; an address that spills is 8.
    """
    done = subprocess.run(
        [sys.executable, "-m", "tests.ops.group_norm.triton.compile_kernels", "90"],
        capture_output=True,
        text=True,
        env={**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == 16
    for row in rows:
        assert row["local_bytes"] <= 8, row
        assert row["registers"] <= 255
        assert row["wide"], row
        assert not row["narrow"], row
