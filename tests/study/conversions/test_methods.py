"""The ways to convert: which affine the new norms have, and what is left as it is."""

import pytest
import torch
from torch import nn

from groupnorm.layers import BatchNorm, FrozenBatchNorm
from groupnorm.study.conversions.methods import LIMITS, converted
from groupnorm.study.conversions.trial import METHODS, WITH_IMAGES, Trial

TWO = "gn:groups=2"


def norms_of(network, kind=nn.GroupNorm):
    return {name: module for name, module in network.named_modules() if isinstance(module, kind)}


def test_reset_is_gamma_1_and_beta_0(teacher):
    network, report = converted(teacher, Trial("reset", TWO))
    norms = norms_of(network)
    assert norms.keys() == {row.name for row in report.layers} == norms_of(
        teacher.network, BatchNorm
    ).keys()  # fmt: skip
    for norm in norms.values():
        assert norm.num_groups == 2
        assert torch.equal(norm.weight, torch.ones_like(norm.weight))
        assert torch.equal(norm.bias, torch.zeros_like(norm.bias))


def test_copy_has_the_batch_norms_affine(teacher):
    network, _ = converted(teacher, Trial("copy", TWO))
    before = norms_of(teacher.network, BatchNorm)
    for name, norm in norms_of(network).items():
        assert torch.equal(norm.weight, before[name].weight)
        assert torch.equal(norm.bias, before[name].bias)


def test_data_free_has_another_affine(teacher):
    network, _ = converted(teacher, Trial("data-free", TWO))
    copied, _ = converted(teacher, Trial("copy", TWO))
    assert not torch.equal(next(network.parameters()), torch.zeros(1))
    pairs = zip(norms_of(network).values(), norms_of(copied).values(), strict=True)
    assert all(not torch.equal(ours.weight, theirs.weight) for ours, theirs in pairs)


def test_groups_may_have_one_channel_where_that_is_asked_for(teacher):
    network, _ = converted(teacher, Trial("reset", "gn:size=1"))
    assert all(norm.num_groups == norm.num_channels for norm in norms_of(network).values())
    network, _ = converted(teacher, Trial("reset", "gn:groups=32", 4))
    assert all(norm.num_channels == 4 * norm.num_groups for norm in norms_of(network).values())


def test_controls(teacher):
    frozen, report = converted(teacher, Trial("frozen BN"))
    assert report is None
    assert len(norms_of(frozen, FrozenBatchNorm)) == 7
    trained, _ = converted(teacher, Trial("BN"))
    assert {norm.batch_per_worker for norm in norms_of(trained, BatchNorm).values()} == {4}
    scratch, _ = converted(teacher, Trial("scratch", TWO))
    assert len(norms_of(scratch)) == 7
    weights = teacher.network.state_dict()
    assert not torch.equal(scratch.state_dict()["linear.weight"], weights["linear.weight"])
    same, _ = converted(teacher, Trial("teacher"))
    assert all(torch.equal(value, weights[key]) for key, value in same.state_dict().items())


def test_the_teacher_stays_as_it_is(teacher):
    before = {key: value.clone() for key, value in teacher.network.state_dict().items()}
    for method in ("reset", "copy", "data-free"):
        converted(teacher, Trial(method, TWO))
    after = teacher.network.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())


def test_every_method_with_images_has_its_limits():
    assert tuple(LIMITS) == WITH_IMAGES
    assert set(WITH_IMAGES) < set(METHODS)
    whole = LIMITS["fit"]
    changed = {
        "fit, no signs": "signs", "fit, no scales": "scale_limit",
        "fit, no offsets": "offset_limit", "fit, small offsets": "offset_limit",
        "fit, no descent": "steps",
    }  # fmt: skip
    for method, field in changed.items():
        differ = {key for key, value in vars(LIMITS[method]).items() if value != vars(whole)[key]}
        assert differ == {field}


@pytest.mark.parametrize("method", ["fit", "least squares"])
def test_calibrated_layers_have_errors(teacher, method):
    network, report = converted(teacher, Trial(method, TWO, 1, 16))
    assert len(norms_of(network)) == len(report.layers) == 7
    assert all(row.error is not None for row in report.layers)
