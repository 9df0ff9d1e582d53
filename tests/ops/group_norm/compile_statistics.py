"""A process that compiles a norm whose forward operator gives as many statistics as it is told.

python -m tests.ops.group_norm.compile_statistics K

Prints how many graphs were found in torch.compile's caches.
"""

import sys

import torch
from torch._dynamo.utils import counters

from groupnorm.ops.group_norm.operators import register


def main(of_group: int) -> None:
    """Compile one training step and run it."""

    def launch_forward(x, num_groups, weight, bias, eps, activation, residual):
        return x * 2, x.new_zeros(of_group, x.shape[0], num_groups)

    def launch_backward(dy, x, num_groups, weight, bias, statistics, activation, residual, needs):
        assert statistics.shape[0] == of_group
        return dy * 2, x.new_zeros(0), x.new_zeros(0), None

    operator = register("test_statistics", launch_forward, launch_backward, of_group=of_group)

    @torch.compile(fullgraph=True)
    def norm(x):
        return operator(x, 2, None, None, 1e-5, None, None)

    x = torch.randn(2, 4, 3, requires_grad=True)
    y = norm(x)
    y.sum().backward()
    assert torch.equal(y, x * 2)
    assert torch.equal(x.grad, torch.full_like(x, 2))
    hits = [n for kind in counters.values() for name, n in kind.items() if "cache_hit" in name]
    sys.stdout.write(f"{sum(hits)}\n")


if __name__ == "__main__":
    main(int(sys.argv[1]))
