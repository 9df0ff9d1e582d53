"""A real training step in a process of its own; prints by how much its memory grew, in bytes.

python training_step.py NORM BATCH SIZE: "resident" is the growth of the largest resident memory
over that of a step with two images, "allocated" the largest sum of PyTorch's own allocations.
"""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F

from groupnorm.memory import keep_large_blocks
from groupnorm.models import build_model


def resident(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def allocated(work):
    with torch.profiler.profile(profile_memory=True) as profile:
        work()
    now = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    return peak


def main(norm, batch, size):
    torch.set_num_threads(1)
    keep_large_blocks()
    model = build_model("resnet20", norm=norm, num_classes=10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True,
                                weight_decay=1e-4)  # fmt: skip

    def step(images):
        inputs = torch.randn(images, 3, size, size)
        loss = F.cross_entropy(model(inputs), torch.zeros(images, dtype=torch.int64))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    step(2)
    step(2)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    before = resident("VmRSS")
    step(batch)
    sys.stdout.write(f"resident {resident('VmHWM') - before}\n")
    sys.stdout.write(f"allocated {allocated(lambda: step(batch))}\n")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
