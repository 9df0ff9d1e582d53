#!/usr/bin/env bash
# The tests of the Triton kernels on a GPU under NVIDIA's compute-sanitizer, one tool after another:
# reads and writes out of bounds, reads of unwritten memory, races in shared memory, barriers.
# Needs a GPU, compute-sanitizer (of the CUDA toolkit) and the package's test extra. Takes long.
set -euo pipefail
cd "$(dirname "$0")/.."

command -v compute-sanitizer > /dev/null || {
  echo "compute-sanitizer is not on the PATH; it comes with the CUDA toolkit" >&2
  exit 1
}
python -c 'import sys, torch; sys.exit(0 if torch.cuda.is_available() else "torch finds no GPU")'
export PYTORCH_NO_CUDA_MEMORY_CACHING=1  # each tensor its own allocation, with ends to run over
for tool in memcheck initcheck racecheck synccheck; do
  echo "== $tool"
  compute-sanitizer --tool "$tool" --target-processes all --error-exitcode 1 \
    python -m pytest -o addopts=-q -p no:xdist -m gpu tests/ops/group_norm/triton/test_backend.py "$@"
done
