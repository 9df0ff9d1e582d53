"""Tensors that are not plain memory: every row once, and all five tensors in random states."""

import os

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import forward_ad

from groupnorm import GroupNorm, explain
from groupnorm.ops.group_norm import group_norm
from groupnorm.ops.group_norm.memory import all_plain
from groupnorm.ops.group_norm.native import launch
from tests.child import in_child, needs_processes
from tests.ops.group_norm import tensor_states
from tests.ops.group_norm.tensor_states import ROLES, STATES, WITHOUT_MEMORY
from tests.tolerances import LAYER, STEP

pytestmark = needs_processes


def one_at_a_time(note):
    """Every role in every state, with the other tensors plain."""
    wrong = []
    for role in ROLES:
        for state in STATES:
            torch.manual_seed(0)
            sizes = {"weight": (4,), "bias": (4,)}
            tensors = {
                r: (state if r == role else "plain", torch.randn(sizes.get(r, (2, 4, 3, 3))))
                for r in ROLES
            }
            note(f"{role}: {state}")
            needs = ("input", "weight", "bias")
            ours = tensor_states.outcome(tensor_states.ours, tensors, 2, None, needs)
            if state in WITHOUT_MEMORY:
                if not isinstance(ours, RuntimeError | ValueError):
                    wrong.append(f"{role}, {state}: memory that is not there was used")
                continue
            theirs = tensor_states.outcome(tensor_states.pytorchs, tensors, 2, None, needs)
            try:
                tensor_states.compare_outcomes(ours, theirs)
            except AssertionError as error:
                wrong.append(f"{role}, {state}: {error}")
    return wrong


def test_one_tensor_in_every_state():
    assert in_child(one_at_a_time) == []


def without_the_exchange_api(note):
    """As with a PyTorch that has no DLPack exchange API, in this process."""
    launch._kernels.set_exchange_api(None)
    return one_at_a_time(note)


@pytest.mark.skipif(bool(launch.why_off), reason="there are no kernels")
def test_one_tensor_in_every_state_read_by_capsules():
    assert in_child(without_the_exchange_api) == []


@pytest.mark.parametrize("role", ["weight", "bias", "residual"])
def test_zeros_without_memory_are_for_pytorchs_operator(role):
    x = torch.randn(2, 4, 3, 3, requires_grad=True)
    zeros = torch._efficientzerotensor(x.shape if role == "residual" else (4,))
    y = group_norm(x, 2, activation="relu", **{role: zeros})
    assert y.grad_fn.name() == "ReluBackward0"


@pytest.mark.parametrize("cases", [600, pytest.param(10_000, marks=pytest.mark.slow)])
def test_all_five_tensors_in_random_states(cases):
    ends = in_child(tensor_states.random_cases, 0, cases)
    assert ends["works"] > cases // 3
    assert ends["raises"] > cases // 10


def test_a_crash_names_its_case():
    with pytest.raises(AssertionError, match=r"ended with -9 in: the second"):
        in_child(killed)


def killed(note):
    note("the first")
    note("the second")
    os.kill(os.getpid(), 9)


def operators_given_nonsense(note):
    """PyTorch's names for the kernels, called by hand."""
    x, w = torch.randn(2, 4, 3), torch.ones(4)
    kernels = torch.ops.groupnorm
    forward, backward = kernels.group_norm_3_statistics, kernels.group_norm_backward
    _, statistics = forward(x, 2, w, None, 1e-5, None, None)
    calls = {
        "groups": lambda: forward(x, 3, w, None, 1e-5, None, None),
        "no groups": lambda: forward(x, 0, w, None, 1e-5, None, None),
        "weight": lambda: forward(x, 2, w[:1], None, 1e-5, None, None),
        "residual": lambda: forward(x, 2, w, None, 1e-5, None, x[:1]),
        "gradient": lambda: backward(x[:1], x, 2, w, None, 1e-5, statistics, None, None, False),
        "dtype": lambda: backward(x.half(), x, 2, w, None, 1e-5, statistics, None, None, False),
        "statistics": lambda: backward(x, x, 2, w, None, 1e-5, statistics[:1], None, None, False),
        "half": lambda: backward(x, x, 2, w, None, 1e-5, statistics.half(), None, None, False),
        "weight back": lambda: backward(x, x, 2, w[:1], None, 1e-5, statistics, None, None, False),
    }
    accepted = []
    for name, call in calls.items():
        note(name)
        try:
            call()
        except ValueError:
            continue
        accepted.append(name)
    return accepted


def test_operators_called_by_hand_check_what_they_get():
    assert in_child(operators_given_nonsense) == []


def memory_that_goes_away(note):
    x = torch.randn(2, 4, 3, 3, requires_grad=True)
    found = []
    y = group_norm(x, 2, eps=1e37)  # 1 / std as small as that of values beyond the range
    (dx,) = torch.autograd.grad(y, x, torch.ones_like(x))
    assert torch.isfinite(dx).all()
    for name in ("input", "weight"):
        note(f"{name} freed after the forward pass")
        held = {"input": x.detach().clone().requires_grad_(), "weight": torch.ones(4)}
        y = group_norm(held["input"], 2, held["weight"], activation="relu")
        held[name].untyped_storage().resize_(0)
        with pytest.raises(RuntimeError, match="no memory"):
            y.sum().backward()
        found.append(name)
    changes = {
        "strides": lambda t: t.flip(-1).transpose(0, -1).contiguous().transpose(0, -1).flip(-1),
        "shape": lambda t: t[..., :1],
        "dtype": lambda t: t.double(),
    }
    for name, change in changes.items():
        note(f"saved tensors with another {name}")
        with torch.autograd.graph.saved_tensors_hooks(lambda t: t, change):
            y = group_norm(x, 2)
        if name == "strides":
            (expected,) = torch.autograd.grad(group_norm(x, 2), x, torch.ones_like(x))
            (dx,) = torch.autograd.grad(y, x, torch.ones_like(x))
            assert torch.allclose(dx, expected, atol=STEP)
        else:
            with pytest.raises(ValueError, match="do not fit together"):
                y.sum().backward()
        found.append(name)
    return found


def test_what_was_saved_is_looked_at_again():
    assert in_child(memory_that_goes_away) == ["input", "weight", "strides", "shape", "dtype"]


def sharded_layer_called_first(note):
    """FSDP2: a sub-layer is called before the module that would gather its parameters."""
    from torch.distributed.fsdp import fully_shard

    mesh = tensor_states._mesh()
    x = torch.randn(2, 4, 3, 3)
    messages = []
    for layer in (GroupNorm(2, 4), torch.nn.GroupNorm(2, 4)):
        model = fully_shard(torch.nn.Sequential(layer), mesh=mesh)
        note(type(layer).__name__)
        with pytest.raises(RuntimeError) as raised:
            model[0].forward(x)
        messages.append(str(raised.value))
    return messages


def test_a_sharded_layer_called_before_its_parameters_are_gathered():
    ours, theirs = in_child(sharded_layer_called_first)
    assert ours == theirs
    assert "mixed torch.Tensor and DTensor" in ours


def distributed_tensors(note):
    from torch.distributed.tensor import DTensor, Replicate, Shard

    mesh = tensor_states._mesh()
    x, dy = torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3)
    parameters = torch.randn(4), torch.randn(4)
    seen = []
    for placement in (Replicate(), Shard(0)):
        for memory_format in (torch.contiguous_format, torch.channels_last):
            note(f"{placement} {memory_format}")

            def distributed(t, where=placement, memory_format=memory_format):
                if t.dim() == 4:
                    t = t.contiguous(memory_format=memory_format)
                return DTensor.from_local(t.clone(), mesh, [where], run_check=False)

            results, failures = [], []
            for function in (group_norm, F.group_norm):
                leaves = [
                    distributed(x).requires_grad_(),
                    *(distributed(p, Replicate()).requires_grad_() for p in parameters),
                ]
                y = function(leaves[0], 2, *leaves[1:])
                try:
                    results.append([y, *torch.autograd.grad(y, leaves, distributed(dy))])
                except RuntimeError as error:  # PyTorch has no gradients of Shard(0) yet
                    results.append([y])
                    failures.append(str(error))
            assert not failures or failures[0] == failures[1]
            for a, b in zip(*results, strict=True):
                assert type(a) is DTensor
                assert a.placements == b.placements
                assert torch.equal(a.to_local(), b.to_local())
            seen.append(str(placement))
    return seen


def test_distributed_tensors():
    assert len(in_child(distributed_tensors)) == 4


def test_fake_tensors_in_a_mode_that_takes_real_ones():
    from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

    x, w = torch.randn(2, 4, 3), torch.ones(4)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert type(group_norm(x, 2, mode.from_tensor(w))) is FakeTensor
    y = group_norm(x.requires_grad_(), 2, w)
    with FakeTensorMode(allow_non_fake_inputs=True):  # a mode that only the backward pass sees
        (dx,) = torch.autograd.grad(y, x, torch.ones_like(x))
    assert type(dx) is FakeTensor


@pytest.mark.parametrize("groups", [1, 2, 4], ids=["ln", "gn", "in"])
def test_batched_gradients_of_a_plain_forward_pass(groups):
    x = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    w = torch.randn(4, dtype=torch.float64, requires_grad=True)
    directions = torch.randn(5, *x.shape, dtype=torch.float64)

    def f(x, activation="silu"):
        return group_norm(x, groups, w, activation=activation)

    y = f(x)
    one_by_one = torch.stack(
        [torch.autograd.grad(y, x, v, retain_graph=True)[0] for v in directions]
    )
    (batched,) = torch.autograd.grad(y, x, directions, is_grads_batched=True, retain_graph=True)
    assert torch.allclose(batched, one_by_one)
    vmapped = torch.func.vmap(lambda v: torch.autograd.grad(y, x, v, retain_graph=True)[0])
    assert torch.allclose(vmapped(directions), one_by_one)
    functional = torch.autograd.functional
    assert torch.allclose(functional.jacobian(f, x, vectorize=True), functional.jacobian(f, x))

    def loss(x):
        return f(x).pow(3).sum()

    assert torch.allclose(functional.hessian(loss, x, vectorize=True), functional.hessian(loss, x))
    assert torch.autograd.gradcheck(lambda x, w: group_norm(x, groups, w), (x, w),
                                    check_batched_grad=True)  # fmt: skip


@pytest.mark.filterwarnings("ignore:`torch.jit.script:FutureWarning")  # PyTorch's forward mode
def test_a_tangent_of_the_incoming_gradient_is_not_lost():
    x = torch.randn(2, 4, 3, requires_grad=True)
    y, theirs = group_norm(x, 2), F.group_norm(x, 2)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(torch.randn_like(x), torch.randn_like(x))
        with pytest.raises(NotImplementedError):
            torch.autograd.grad(theirs, x, dual)
        with pytest.raises(NotImplementedError, match="has a tangent"):
            torch.autograd.grad(y, x, dual, retain_graph=True)
        torch.autograd.grad(y, x, torch.randn_like(x))  # without one it works


def test_per_sample_gradients_by_expanded_weights():
    from torch.nn.utils._per_sample_grad import call_for_per_sample_grads

    x = torch.randn(3, 4, 5)
    for activation in (None, "silu"):
        layer = GroupNorm(2, 4, activation=activation)
        torch.nn.init.normal_(layer.weight)
        call_for_per_sample_grads(layer)(x).square().sum().backward()
        for name, parameter in layer.named_parameters():
            per_sample = parameter.grad_sample
            assert per_sample.shape == (3, 4)
            for n in range(3):
                y = layer(x[n : n + 1]).square().sum()
                (expected,) = torch.autograd.grad(y, layer.get_parameter(name))
                assert torch.allclose(per_sample[n], expected, atol=LAYER)


def test_a_function_mode_sees_the_call():
    seen = []

    class Mode(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            seen.append(func)
            return func(*args, **(kwargs or {}))

    x = torch.randn(2, 4, 3)
    with Mode():
        y = group_norm(x, 2, activation="relu")
    assert seen == [group_norm]
    assert torch.equal(y, group_norm(x, 2, activation="relu"))


@pytest.mark.parametrize("role", ["input", "weight", "bias", "residual"])
def test_a_subclass_is_asked_first(role):
    asked = []

    class Logged(torch.Tensor):
        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            if func is group_norm:
                asked.append(types)
            return super().__torch_function__(func, types, args, kwargs)

    given = {"input": torch.randn(2, 4, 3), "weight": torch.ones(4), "bias": torch.ones(4)}
    given["residual"] = torch.randn(2, 4, 3)
    expected = group_norm(num_groups=2, **given)
    given[role] = given[role].as_subclass(Logged)
    y = group_norm(num_groups=2, **given)
    assert len(asked) == 1
    assert Logged in asked[0]
    assert type(y) is Logged
    assert torch.equal(y.as_subclass(torch.Tensor), expected)


def test_fx_records_one_call():
    traced = torch.fx.symbolic_trace(lambda x: group_norm(x, 2, activation="silu") + 1)
    assert next(n.target for n in traced.graph.nodes if n.op == "call_function") is group_norm
    x = torch.randn(2, 4, 3)
    assert torch.equal(traced(x), group_norm(x, 2, activation="silu") + 1)


def test_the_node_has_a_name():
    y = group_norm(torch.randn(2, 4, 3, requires_grad=True), 2)
    assert y.grad_fn.name() == "GroupNormBackward"


def test_plain_tensors_are_told_by_their_keys():
    x = torch.randn(2, 3)
    with torch.inference_mode():
        inference = torch.randn(2)
    assert all_plain(x, None, torch.nn.Parameter(x), inference, x[:, ::2], x.double())
    for state in ("negated", "zeros without memory", "wrapper", "sparse", "meta", "functional"):
        assert not all_plain(x, STATES[state](x)), state


def test_explain_says_when_the_kernels_do_not_run():
    x = torch._neg_view(torch.randn(2, 4, 3))
    found = explain(x)
    assert found.backend == "aten"
    assert "not plain memory" in found.reason
    assert "Negative" in found.reason
