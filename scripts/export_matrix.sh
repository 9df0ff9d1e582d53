#!/usr/bin/env bash
# Group norm and whole networks in every runtime that runs on Linux, as a record.
#
#   scripts/export_matrix.sh OUT [WORK]
#
# Makes three environments, since LiteRT's converter pins an older PyTorch and pydantic, trains the
# ResNet-20, and writes one file for each runtime into the folder OUT. WORK keeps the environments
# and the trained network for another run.
set -euo pipefail
out=$(realpath -m "${1:?usage: scripts/export_matrix.sh OUT [WORK]}")
work=$(realpath -m "${2:-$(mktemp -d)}")
cd "$(dirname "$0")/.."
mkdir -p "$work"

environment() { # environment NAME REQUIREMENT...: make it, or take the one that is there
  local venv=$work/$1
  shift
  if [ ! -e "$venv/ready" ]; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install -q "$@"
    touch "$venv/ready"
  fi
}

measure() { # measure ENVIRONMENT ARGUMENT...
  local python=$work/$1/bin/python
  shift
  OMP_NUM_THREADS=1 "$python" benchmarks/export_matrix.py "$@" --work "$work"
}

environment main '.[study,export,export-coreml]' diffusers
environment executorch '.[export-executorch]' torchvision diffusers
environment litert . litert-torch==0.10.0 torch==2.14.1 torchvision==0.29.1 diffusers
[ -e "$work/resnet20.pt" ] || measure main train
measure main run onnxruntime openvino ncnn coreml --out "$out"
measure main half --out "$out"
measure executorch run executorch executorch-portable --out "$out"
measure litert run litert --out "$out"
