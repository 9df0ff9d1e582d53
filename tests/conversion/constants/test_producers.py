"""Which layer makes a norm's input, whatever memory the run gives back and takes again."""

import weakref

import torch
from torch import nn

from groupnorm.conversion.constants.producers import find_producers


class Forgetful(nn.Module):
    """Sums into a norm that nothing else holds, then a convolution and its norm."""

    def __init__(self):
        super().__init__()
        self.norm1, self.conv, self.norm2 = nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x):
        total = x + 1
        held = weakref.ref(total)
        y = self.norm1(total)
        del total
        # Otherwise the convolution's output may get its id, and pass for the first norm's input.
        assert held() is not None
        return self.norm2(self.conv(y))


def test_no_other_tensor_gets_the_id_of_a_norms_input():
    network = Forgetful().eval()
    found = find_producers(network, [network.norm1, network.norm2], torch.randn(1, 4, 3, 3))
    assert found[network.norm1] == "no convolution or linear layer makes its input"
    assert found[network.norm2] is network.conv


def test_an_output_that_is_gone_marks_no_other_one():
    """A hook that saw a tensor, whose id a convolution's output has later, changes nothing."""

    class Chain(nn.Module):
        def __init__(self):
            super().__init__()
            self.watched = nn.Identity()
            self.convs = nn.ModuleList(nn.Conv2d(4, 4, 1) for _ in range(50))
            self.norms = nn.ModuleList(nn.BatchNorm2d(4) for _ in range(50))
            self.watched.register_forward_hook(lambda module, args, output: None)

        def forward(self, x):
            for conv, norm in zip(self.convs, self.norms, strict=True):
                x = norm(conv(self.watched(x + 1) + 1))
            return x

    network = Chain().eval()
    found = find_producers(network, network.norms, torch.randn(1, 4, 3, 3))
    assert [found[norm] for norm in network.norms] == list(network.convs)
