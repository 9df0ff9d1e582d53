"""Tensors in every state that PyTorch knows, and group norm of them, ours beside PyTorch's."""

import functools
import random
import warnings

import torch
import torch.nn.functional as F
from torch.utils._pytree import tree_map_only

from groupnorm.ops.group_norm import group_norm
from tests.tolerances import ANY_STATE, ANY_STATE_HALF

ROLES = ("input", "weight", "bias", "residual", "gradient")


class Plain(torch.Tensor):
    """A subclass that changes nothing."""


class Wrapper(torch.Tensor):
    """A subclass without memory of its own: every operation runs on the tensor inside."""

    @staticmethod
    def __new__(cls, inside):
        return torch.Tensor._make_wrapper_subclass(
            cls, inside.shape, strides=inside.stride(), dtype=inside.dtype, device=inside.device,
            requires_grad=inside.requires_grad,
        )  # fmt: skip

    def __init__(self, inside):
        self.inside = inside

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        unwrap = functools.partial(tree_map_only, Wrapper, lambda t: t.inside)
        return tree_map_only(torch.Tensor, Wrapper, func(*unwrap(args), **unwrap(kwargs or {})))

    __torch_function__ = torch._C._disabled_torch_function_impl


def freed(t):
    t = t.clone()
    t.untyped_storage().resize_(0)
    return t


def freed_with_offset(t):
    t = torch.cat([t.flatten(), t.flatten()])[t.numel() :].view(t.shape)
    t.untyped_storage().resize_(0)
    return t


def freed_transposed(t):
    t = t.transpose(0, -1).contiguous().transpose(0, -1)
    t.untyped_storage().resize_(0)
    return t


def freed_with_gaps(t):
    t = torch.stack([t, t], -1)[..., 0]
    t.untyped_storage().resize_(0)
    return t


def shrunk_with_offset(t):
    """The storage has as many bytes as the tensor, but the tensor begins in its middle."""
    t = torch.cat([t.flatten(), t.flatten()])[max(t.numel() // 2, 1) :][: t.numel()].view(t.shape)
    t.untyped_storage().resize_(t.nbytes)
    return t


def shrunk(t):
    t = t.clone()
    t.untyped_storage().resize_(max(t.nbytes - t.element_size(), 0))
    return t


def two(t):
    from torch.testing._internal.two_tensor import TwoTensor

    return TwoTensor(t.clone(), t.clone())


def imaginary(t):
    """Negated, and with a stride of 2."""
    return torch.complex(torch.zeros_like(t), -t).conj().imag


def replicated(t):
    from torch.distributed.tensor import DTensor, Replicate

    return DTensor.from_local(t.clone(), _mesh(), [Replicate()], run_check=False)


@functools.cache
def _mesh():
    import torch.distributed as dist
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", rank=0, world_size=2, store=FakeStore())
    return dist.init_device_mesh("cpu", (2,))


@functools.cache
def _fake_mode():
    from torch._subclasses.fake_tensor import FakeTensorMode

    return FakeTensorMode(allow_non_fake_inputs=True)


STATES = {
    "plain": lambda t: t,
    "parameter": lambda t: torch.nn.Parameter(t),
    "with gaps": lambda t: torch.stack([t, t], -1)[..., 0],
    "with an offset": lambda t: torch.cat([t.flatten(), t.flatten()])[t.numel() :].view(t.shape),
    "transposed": lambda t: t.transpose(0, -1).contiguous().transpose(0, -1),
    "negated": lambda t: torch._neg_view(-t),
    "imaginary part": imaginary,
    "zeros without memory": lambda t: torch._efficientzerotensor(t.shape, dtype=t.dtype),
    "freed": freed,
    "freed, with an offset": freed_with_offset,
    "freed, transposed": freed_transposed,
    "freed, with gaps": freed_with_gaps,
    "shrunk": shrunk,
    "shrunk, with an offset": shrunk_with_offset,
    "subclass": lambda t: t.clone().as_subclass(Plain),
    "wrapper": lambda t: Wrapper(t.clone()),
    "two tensors": two,
    "DTensor": replicated,
    "fake": lambda t: _fake_mode().from_tensor(t),
    "functional": lambda t: torch._to_functional_tensor(t.clone()),
    "sparse": lambda t: t.to_sparse(),
    "meta": lambda t: t.to("meta"),
}
WITHOUT_MEMORY = {
    "freed", "freed, with an offset", "freed, transposed", "freed, with gaps", "shrunk",
    "shrunk, with an offset",
}  # fmt: skip
KERNELS_TAKE = WITHOUT_MEMORY | {
    "plain", "parameter", "with gaps", "with an offset", "transposed", "subclass"
}  # fmt: skip


def pytorchs(input, groups, weight, bias, residual, activation):
    y = F.group_norm(input, groups, weight, bias)
    y = y if residual is None else y + residual
    return y if activation is None else getattr(F, activation)(y)


def ours(input, groups, weight, bias, residual, activation):
    return group_norm(input, groups, weight, bias, residual=residual, activation=activation)


def outcome(function, tensors, groups, activation, needs_grad):
    """Output and gradients, or the exception."""
    leaves = []
    try:
        given = {}
        for role, (state, t) in tensors.items():
            made = None if t is None else STATES[state](t.clone())
            if made is not None and role in needs_grad and made.is_leaf:
                leaves.append(made.requires_grad_())
            given[role] = made
        gradient = given.pop("gradient")
        y = function(groups=groups, activation=activation, **given)
        grads = torch.autograd.grad(y, leaves, gradient, allow_unused=True) if leaves else ()
    except Exception as error:
        return error
    return [y, *grads]


def values(t):
    """The numbers of a tensor, if it has any."""
    kind = type(t).__name__
    if kind == "Wrapper":
        return values(t.inside)
    if kind == "TwoTensor":
        return values(t.a)
    if kind == "DTensor":
        return values(t.to_local())
    if kind == "FakeTensor" or t.device.type == "meta":
        return None
    if torch._is_functional_tensor(t):
        return values(torch._from_functional_tensor(t))
    return t.detach().to_dense().double() if t.layout != torch.strided else t.detach().double()


def compare_outcomes(ours, theirs):
    """Raise AssertionError unless ours is what PyTorch gives for the same tensors."""
    if isinstance(theirs, Exception):
        assert isinstance(ours, Exception), f"PyTorch raises {type(theirs).__name__}: {theirs}"
        return "raises"
    assert not isinstance(ours, Exception), f"{type(ours).__name__}: {ours}"
    for number, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        assert (a is None) == (b is None)
        if a is None:
            continue
        # A gradient that PyTorch hands on as it came, a conversion to half may have copied.
        handed_on = number > 0 and isinstance(b, torch.nn.Parameter | Plain)
        if not (handed_on and type(a) is torch.Tensor):
            assert type(a) is type(b), f"{type(a).__name__}, PyTorch: {type(b).__name__}"
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        if (x := values(a)) is not None:
            # PyTorch rounds to half several times; here only the kind of result is compared.
            limit = ANY_STATE_HALF if a.dtype == torch.bfloat16 else ANY_STATE
            error = (x - values(b)).abs().max()
            assert error <= limit * (1 + values(b).abs().max()), f"off by {error}"
    return "works"


def random_cases(note, first, count):
    """Cases number `first` to `first + count`; how many worked, and how many raised."""
    warnings.simplefilter("ignore")
    ends = {"works": 0, "raises": 0}
    for number in range(first, first + count):
        draw = random.Random(number)
        torch.manual_seed(number)
        dtype = draw.choice([torch.float32, torch.float32, torch.float64, torch.bfloat16])
        groups, per_group = draw.randint(1, 3), draw.randint(1, 3)
        shape = (draw.randint(1, 3), groups * per_group, *(draw.randint(2, 4) for _ in "hw"))
        odd = draw.sample(ROLES, draw.choice([0, 1, 1, 1, 2, 5]))  # the others are plain
        states = {role: draw.choice(list(STATES)) if role in odd else "plain" for role in ROLES}
        if states["gradient"] in WITHOUT_MEMORY and not set(states.values()) <= KERNELS_TAKE:
            states["gradient"] = "plain"  # a graph of PyTorch's own operations, some of which crash
        if {"wrapper", "two tensors", "DTensor"} & set(states.values()):  # PyTorch mixes up the two
            states = {r: "plain" if s == "subclass" else s for r, s in states.items()}
        for alone in ("functional", "fake"):  # classes that mix with no other
            if alone in states.values():
                states = {r: s if s == alone else "plain" for r, s in states.items()}
        if dtype == torch.bfloat16:  # PyTorch converts no sparse tensor to float32
            states = {r: "plain" if s == "sparse" else s for r, s in states.items()}
        absent = draw.sample(["weight", "bias", "residual"], draw.randint(0, 2))
        # Rounded to half, a value near the kink of relu may be on either side.
        activation = draw.choice([None, "silu", None if dtype == torch.bfloat16 else "relu"])
        if activation is not None and states["gradient"] == "sparse":
            states["gradient"] = "plain"  # the derivative of some of PyTorch's activations takes it
        needs_grad = draw.sample(ROLES[:4], draw.randint(0, 4))
        leaves = set(needs_grad) - set(absent)
        if not leaves or (leaves == {"residual"} and activation is None):
            states["gradient"] = "plain"  # nobody looks at it
        sizes = {"weight": shape[1:2], "bias": shape[1:2]}
        tensors = {
            role: (state, None if role in absent else torch.randn(sizes.get(role, shape)).to(dtype))
            for role, state in states.items()
        }
        given = {role: state for role, state in states.items() if role not in absent}
        note(f"case {number}: {shape}, {groups} groups, {dtype}, {activation}, {given}, "
             f"gradients of {needs_grad}")  # fmt: skip
        result = outcome(ours, tensors, groups, activation, needs_grad)
        if any(state in WITHOUT_MEMORY for state in given.values()):
            # PyTorch's own operations end the process for some of these.
            raised = isinstance(result, Exception)
            assert raised or all(t is None or values(t) is None for t in result), (
                "memory that is not there was used"
            )
            ends["raises" if raised else "works"] += 1
            continue
        expected = outcome(pytorchs, tensors, groups, activation, needs_grad)
        ends[compare_outcomes(result, expected)] += 1
    return ends
