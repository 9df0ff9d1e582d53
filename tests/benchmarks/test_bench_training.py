"""The networks whose training steps are timed, and the calls."""

import bench_training
import call_overhead
import pytest
from torch import nn

from groupnorm import GroupNorm


@pytest.mark.parametrize("name", bench_training.NETWORKS)
def test_networks_differ_in_the_way_of_their_norms_alone(name):
    _, _, ways = bench_training.NETWORKS[name]
    found = {}
    for way in ways:
        model = bench_training.network(name, way, "channels_last")
        norms = [module for module in model.modules() if isinstance(module, nn.GroupNorm)]
        assert norms
        if way == "torch":
            assert {type(norm) for norm in norms} == {nn.GroupNorm}
        else:
            assert {(type(norm), norm.backend) for norm in norms} == {(GroupNorm, way)}
        found[way] = {key: value.shape for key, value in model.state_dict().items()}
    assert all(shapes == found["torch"] for shapes in found.values())


def test_the_same_calls_are_compared():
    pairs = call_overhead.calls()
    assert len(pairs) == 6
    for pair in pairs.values():
        assert set(pair) == {"groupnorm", "eager"}
        for call in pair.values():
            call()
