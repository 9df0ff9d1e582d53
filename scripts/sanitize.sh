#!/usr/bin/env bash
# The tests of the C++ kernels under the address and undefined-behaviour sanitizers.
# Needs g++, cmake and, in the active environment, the package's test extra.
set -euo pipefail
cd "$(dirname "$0")/.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp -r groupnorm tests pyproject.toml "$work"
rm -f "$work"/groupnorm/ops/group_norm/native/_native*.so
cmake -S groupnorm/ops/group_norm/native/csrc -B "$work/build" -DGN_SANITIZE=ON -DCMAKE_CXX_COMPILER=g++ \
  -DPython_EXECUTABLE="$(command -v python)" \
  -DCMAKE_CXX_FLAGS_RELEASE=-O1
cmake --build "$work/build" --parallel "$(nproc)"
cp "$work"/build/_native*.so "$work/groupnorm/ops/group_norm/native/"

cd "$work"
export LD_PRELOAD="$(g++ -print-file-name=libasan.so) $(g++ -print-file-name=libubsan.so)"
export ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
# this copy, not an editable install's tree
python - "$@" <<'PYTHON'
import sys

sys.meta_path[:] = [f for f in sys.meta_path if "groupnorm" not in type(f).__module__]
sys.path.insert(0, ".")
import groupnorm.ops.group_norm.native._native
import pytest

print("tested:", groupnorm.ops.group_norm.native._native.__file__)
files = ["test_api.py", "test_in_place.py", "test_numerics.py", "native/test_backend.py", "native/test_launch.py"]
deselected = ["fork", "compiler", "compile"]
sys.exit(
    pytest.main(
        ["-n", "0", "-p", "no:cacheprovider", "-k", " and ".join(f"not {d}" for d in deselected)]
        + [f"tests/ops/group_norm/{name}" for name in files]
        + sys.argv[1:]
    )
)
PYTHON
