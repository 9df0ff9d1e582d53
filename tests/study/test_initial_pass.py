"""What is measured of networks before any training."""

import json
import math

import pytest
import torch
from torch import nn

from groupnorm.run.classification import load
from groupnorm.study import initial_pass
from groupnorm.study.initial_pass import _noise, look_at_initial, measure
from groupnorm.study.store import StoreError, read_initial
from groupnorm.training.config import RunConfig
from tests.tolerances import SAMPLED

BASE = RunConfig(model="resnet8", data="digits", width=0.25, epochs=21)


def with_norm(norm, **fields):
    return RunConfig(**{**dict(BASE), "norm": norm, **fields})


@pytest.fixture(scope="module")
def batches():
    return load(BASE, "cpu", None)


def test_gain_and_noise_of_a_network(batches):
    """Groups of fewer values have noisier statistics; a gamma of 0 does not stop the gradient."""
    few, many = (measure(with_norm(norm), batches) for norm in ("gn:groups=1", "in"))
    assert few["norm"] == "gn:groups=1"
    assert 0.5 < few["gain"] < 2
    assert few["noise"] < many["noise"]
    assert measure(with_norm("gn:groups=1", zero_gamma=False), batches) == few
    assert measure(with_norm("gn:groups=1"), batches) == few, "the same bits again"


def test_a_single_layer_has_a_gain_of_one(batches, monkeypatch):
    """The gradient has no layer before to grow to; 0 would read as one that vanishes."""
    layers = [nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.Flatten(), nn.LazyLinear(10)]
    monkeypatch.setattr(
        initial_pass, "build", lambda config, batches, device: nn.Sequential(*layers)
    )
    assert measure(with_norm("gn:groups=2"), batches)["gain"] == 1.0


def test_the_noise_is_that_of_the_logarithm_of_the_standard_deviation():
    generator = torch.Generator().manual_seed(0)
    scale = torch.rand(200, 1, 1, generator=generator) + 0.5
    x = scale * torch.randn(200, 4, 10_000, generator=generator)
    assert _noise(x, 2, 0.0) == pytest.approx(float(scale.log().std()), rel=SAMPLED)
    assert _noise(3 * x, 2, 0.0) == pytest.approx(_noise(x, 2, 0.0))
    assert math.isinf(_noise(x[:, :, :1], 4, 1e-5))


def test_it_is_measured_once_for_the_same_runs(tmp_path, monkeypatch):
    asked = []

    def look(config, batches):
        asked.append(config.norm_text)
        return {"norm": config.norm_text, "gain": 1.25, "noise": None}

    monkeypatch.setattr(initial_pass, "measure", look)
    configs = {norm: with_norm(norm) for norm in ("gn:groups=1", "gn:groups=2")}
    said = look_at_initial(tmp_path, configs, None)
    assert said.startswith("2 untrained networks measured in ")
    assert look_at_initial(tmp_path, configs, None) == said
    assert asked == list(configs)
    assert list(read_initial(tmp_path)["runs"]) == list(configs)
    look_at_initial(tmp_path, {"gn:groups=4": with_norm("gn:groups=4")}, None)
    assert asked[2:] == ["gn:groups=4"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gain": 0}, "runs.x.gain=0"),
        ({"noise": -1}, "runs.x.noise=-1"),
        ({"norm": None}, "runs.x.norm=None"),
        ({"colour": 1}, "colour"),
    ],
)
def test_a_damaged_file_says_what_to_do(tmp_path, change, message):
    run = {"norm": "gn", "gain": 1.0, "noise": 0.1, **change}
    found = {"format": 1, "images": 32, "seconds": 1.0, "runs": {"x": run}}
    (tmp_path / "initial.json").write_text(json.dumps(found))
    with pytest.raises(StoreError, match=message) as refused:
        read_initial(tmp_path)
    assert "delete it: the command that made the study measures it again" in str(refused.value)


def test_without_a_file_nothing_was_measured(tmp_path):
    assert read_initial(tmp_path) is None
