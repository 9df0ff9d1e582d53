"""The first module with values that are not finite, and the sample, are found."""

import pytest
import torch
from torch import nn

from groupnorm.conversion.finite import NotFiniteError, all_finite, check_finite


class Logarithm(nn.Module):
    def forward(self, x):
        return x.log()


def run(model, batch):
    return model(batch[0] if isinstance(batch, list) else batch)


def test_the_first_module_and_sample_are_named_and_hooks_removed():
    model = nn.Sequential(nn.Identity(), nn.Sequential(Logarithm()), nn.Linear(2, 2))
    batches = [[torch.ones(3, 2), torch.zeros(3)], torch.ones(4, 2)]
    check_finite("it", model, batches, run)
    batches[1][2, 0] = -1
    words = r"the output of 1\.0 \(Logarithm\) in it has .* first for sample 15 of the data"
    with pytest.raises(NotFiniteError, match=words) as raised:
        check_finite("it", model, batches, run, before=10)
    assert raised.value.sample == 10 + 3 + 2
    assert not [m for m in model.modules() if m._forward_hooks or m._forward_pre_hooks]


def test_where_samples_are_not_counted_the_batch_is_named():
    batches = [{"x": torch.ones(2, 2)}, {"x": torch.full((2, 2), torch.inf)}]
    with pytest.raises(
        NotFiniteError, match=r"the input of it has .* first for batch 1 of"
    ) as raised:
        check_finite("it", nn.Identity(), batches, lambda model, batch: model(batch["x"]))
    assert raised.value.sample is None


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_what_follows_the_network_counts_as_its_output():
    with pytest.raises(NotFiniteError, match=r"the output of it has .* first for sample 0"):
        check_finite("it", nn.Identity(), [torch.ones(2, 2)], lambda model, x: model(x) / 0)
    traced = torch.jit.trace(nn.Identity(), torch.ones(2))
    with pytest.raises(NotFiniteError, match=r"the output of it has .* first for sample 1"):
        check_finite("it", traced, [torch.tensor([1.0, torch.nan])], run)


def test_values_at_any_depth_are_looked_at():
    assert all_finite({"a": [torch.ones(2), torch.tensor(3)]})
    assert not all_finite({"a": [torch.ones(2), (torch.tensor(torch.nan),)]})
