"""Checkpoints in the forms that training scripts write."""

import re
import sys
from collections import OrderedDict

import pytest
import safetensors.torch
import torch
from torch import nn

from groupnorm.run.conversion.weights import load_weights


def network():
    return nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 4, 3), bn=nn.BatchNorm2d(4)))


@pytest.fixture
def trained():
    model = network()
    nn.init.normal_(model.bn.running_mean)
    model.bn.num_batches_tracked.fill_(7)
    return model


def saved(content, path):
    torch.save(content, path)
    return path


def loaded(path):
    model = network()
    return model, load_weights(model, path)


def same(model, other):
    mine, theirs = model.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[k], theirs[k]) for k in mine)


@pytest.mark.parametrize(
    "under", [None, "state_dict", "model", "model_state_dict", "state_dict_ema"]
)
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "model."])
def test_every_form(trained, tmp_path, under, prefix):
    state = {prefix + key: value for key, value in trained.state_dict().items()}
    content = state if under is None else {"epoch": 3, under: state, "args": {"lr": 0.1}}
    model, notes = loaded(saved(content, tmp_path / "c.pt"))
    assert same(model, trained)
    expected = [f"the weights are those under {under!r}"] if under else []
    if prefix:
        expected.append(f"the prefix {prefix!r} of all keys is taken off")
    assert notes == expected


def test_a_prefix_that_the_network_has_itself_stays(trained, tmp_path):
    path = saved(nn.ModuleDict({"net": trained}).state_dict(), tmp_path / "c.pt")
    model = nn.ModuleDict({"net": network()})
    assert load_weights(model, path) == []
    assert same(model.net, trained)


def test_of_several_state_dicts_the_one_taken_is_named(trained, tmp_path):
    content = {"state_dict_ema": network().state_dict(), "state_dict": trained.state_dict()}
    model, (note,) = loaded(saved(content, tmp_path / "c.pt"))
    assert same(model, trained)
    assert note == "the weights are those under 'state_dict', not those under 'state_dict_ema'"


def test_a_moving_average_of_pytorch(trained, tmp_path):
    average = torch.optim.swa_utils.AveragedModel(trained)
    model, notes = loaded(saved(average.state_dict(), tmp_path / "c.pt"))
    assert same(model, trained)
    assert notes == [
        "n_averaged, the counter of a moving average, is left out",
        "the prefix 'module.' of all keys is taken off",
    ]


def test_a_file_without_counters_of_batches(trained, tmp_path):
    state = {k: v for k, v in trained.state_dict().items() if "num_batches" not in k}
    model, notes = loaded(saved(state, tmp_path / "c.pt"))
    assert torch.equal(model.bn.running_mean, trained.bn.running_mean)
    assert notes == ["bn.num_batches_tracked is missing, which is not needed"]


def test_safetensors(trained, tmp_path, monkeypatch):
    path = tmp_path / "c.safetensors"
    safetensors.torch.save_file(trained.state_dict(), path)
    assert same(loaded(path)[0], trained)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"c\.safetensors is no whole file of safetensors"):
        loaded(path)
    with pytest.raises(FileNotFoundError):
        loaded(tmp_path / "none.safetensors")
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(ValueError, match="needs safetensors: pip install safetensors"):
        loaded(path)


def test_what_does_not_fit_is_named_in_part_and_nothing_changes(trained, tmp_path):
    state = {**{f"layer{i}.weight": torch.zeros(2) for i in range(8)}, **trained.state_dict()}
    del state["conv.bias"]
    state["conv.weight"] = torch.zeros(5, 3, 3, 3)
    path = saved({"model": state}, tmp_path / "c.pt")
    model = network()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(
        ValueError, match=r"c\.pt does not fit the model\. Keys missing: conv\.bias"
    ) as error:
        load_weights(model, path)
    assert "unexpected: layer0.weight, layer1.weight, " in str(error.value)
    assert "layer4.weight and 3 more; of another shape: conv.weight (5, 3, 3, 3)" in str(
        error.value
    )
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"net": {"conv.weight": torch.zeros(1)}}, "no tensors are net. It may be the whole"),
        ([1], "holds no state dict but list"),
        ({"state_dict": {"conv.weight": "text"}}, "no tensors are conv.weight"),
        (re.compile("x"), "holds more than tensors and plain values, perhaps code"),
    ],
)  # fmt: skip
def test_files_that_hold_no_state_dict(tmp_path, content, message):
    path = saved(content, tmp_path / "c.pt")
    with pytest.raises(ValueError, match=message):
        loaded(path)


def test_nothing_in_a_file_is_run(tmp_path):
    class Code:
        def __reduce__(self):
            return (open, (str(tmp_path / "run"), "w"))

    path = saved({"state_dict": {}, "code": Code()}, tmp_path / "c.pt")
    with pytest.raises(ValueError, match="perhaps code"):
        loaded(path)
    assert not (tmp_path / "run").exists()
