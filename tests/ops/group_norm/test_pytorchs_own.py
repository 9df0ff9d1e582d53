"""PyTorch's own tests of an operator, as far as its wheel carries them, run on `group_norm`.

In child processes: what ends the process is a failure with a name. Sample inputs against PyTorch's
results are in tests/layers/test_conformance.py.
"""

import traceback
import warnings

import pytest
import torch
import torch.nn.functional as F

from groupnorm import GroupNorm
from groupnorm.ops.group_norm import group_norm
from tests.child import in_child, needs_processes
from tests.tolerances import GRADCHECK, LAYER, NETWORK, PRINTED, SAMPLES_64

pytestmark = needs_processes
SAMPLES_STEP = 1  # each of PyTorch's sample inputs, or every fifth


pytest.importorskip("expecttest")  # which PyTorch's test material imports


def samples(dtype=torch.float64, requires_grad=True):
    from torch.testing._internal.common_methods_invocations import op_db

    (op,) = [op for op in op_db if op.name == "nn.functional.group_norm"]
    found = [s for s in op.sample_inputs("cpu", dtype, requires_grad) if s.input.numel()]
    assert len(found) > 10
    return found[::SAMPLES_STEP]


def called(sample):
    """Ours, taking the input and the other arguments as PyTorch's function does."""
    return lambda x, *args, **kwargs: group_norm(x, *args, **kwargs)


def close(a, b, equal_nan=True):
    torch.testing.assert_close(a, b, **SAMPLES_64, equal_nan=equal_nan)


def composite_compliance(note):
    """Tensors of a class that forbids what breaks subclasses, in every combination."""
    from torch.testing._internal import composite_compliance as compliance

    for number, sample in enumerate(samples()):
        arguments = [sample.input, *sample.args]
        for check in (
            compliance.check_with_mode,
            compliance.check_all_permutations,
        ):
            note(f"{check.__name__} of sample {number}: {sample}")
            check(called(sample), arguments, sample.kwargs, close)
        if number % 4 == 0:  # every combination of wrapped gradients: long
            note(f"check_backward_formula of sample {number}: {sample}")
            compliance.check_backward_formula(
                called(sample), arguments, sample.kwargs, assert_equal_fn=close
            )
            note(f"check_forward_ad_formula of sample {number}: {sample}")
            compliance.check_forward_ad_formula(
                called(sample), arguments, sample.kwargs, assert_equal_fn=close
            )


def negative_views(note):
    """PyTorch's TestMathBits: any tensor, and the gradient, as a negated view."""
    for number, sample in enumerate(samples()):
        note(f"sample {number}: {sample}")

        def negated(t):
            if not isinstance(t, torch.Tensor):
                return t
            return torch._neg_view(-t.detach()).requires_grad_()

        leaves = [sample.input, *(v for v in sample.kwargs.values() if torch.is_tensor(v))]
        y = group_norm(sample.input, *sample.args, **sample.kwargs)
        dy = torch.randn_like(y)
        expected = torch.autograd.grad(y, leaves, dy)
        x = negated(sample.input)
        kwargs = {name: negated(value) for name, value in sample.kwargs.items()}
        found = group_norm(x, *sample.args, **kwargs)
        assert not found.is_neg()
        close(found, y)
        leaves = [x, *(v for v in kwargs.values() if torch.is_tensor(v))]
        for a, b in zip(torch.autograd.grad(found, leaves, negated(dy)), expected, strict=True):
            close(a, b)


def gradients_of_every_kind(note):
    """gradcheck and gradgradcheck with batched gradients, in forward mode too."""
    for number, sample in enumerate(samples()):
        if sample.input.numel() > 400:
            continue
        leaves = [sample.input, *(v for v in sample.kwargs.values() if torch.is_tensor(v))]
        names = [name for name, v in sample.kwargs.items() if torch.is_tensor(v)]

        def function(x, *tensors, sample=sample, names=names):
            return group_norm(
                x, *sample.args, **{**sample.kwargs, **dict(zip(names, tensors, strict=True))}
            )

        note(f"gradcheck of sample {number}: {sample}")
        # eps may be negative in PyTorch's samples, and the numeric derivative far off: fast mode.
        torch.autograd.gradcheck(
            function, leaves, check_batched_grad=True, check_forward_ad=True,
            check_batched_forward_grad=True, fast_mode=False, **GRADCHECK,
        )  # fmt: skip
        note(f"gradgradcheck of sample {number}: {sample}")
        torch.autograd.gradgradcheck(
            function, leaves, check_batched_grad=True, check_fwd_over_rev=False,
            fast_mode=True, **GRADCHECK,
        )  # fmt: skip


def vmapped_gradients(note):
    """functorch's tests: vmap over grad, over vjp, and over autograd.grad of a finished graph."""
    for number, sample in enumerate(samples()):
        note(f"sample {number}: {sample}")
        x, kwargs = sample.input, sample.kwargs

        def function(x, sample=sample, kwargs=kwargs):
            return group_norm(x, *sample.args, **kwargs)

        y = function(x)
        directions = torch.randn(3, *y.shape, dtype=y.dtype)
        singly = torch.stack(
            [torch.autograd.grad(y, x, v, retain_graph=True)[0] for v in directions]
        )
        vjp = torch.func.vjp(function, x)[1]
        close(torch.func.vmap(lambda v, vjp=vjp: vjp(v)[0])(directions), singly)
        after = torch.func.vmap(
            lambda v, y=y, x=x: torch.autograd.grad(y, x, v, retain_graph=True)[0]
        )
        close(after(directions), singly)
        inputs = torch.stack([x, x + 1]).detach()
        rows = torch.func.vmap(lambda t, f=function: f(t))(inputs)
        close(rows, torch.stack([function(t) for t in inputs]))


def fake_tensors(note):
    """Shapes, strides and dtypes without memory, forward and backward."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    def results(x, args, kwargs):
        leaves = [x, *(v for v in kwargs.values() if torch.is_tensor(v))]
        y = group_norm(x, *args, **kwargs)
        return [y, *torch.autograd.grad(y, leaves, torch.ones_like(y))]

    for dtype in (torch.float32, torch.bfloat16):
        for number, sample in enumerate(samples(dtype)):
            note(f"sample {number}: {sample}")
            real = results(sample.input, sample.args, sample.kwargs)
            with FakeTensorMode() as mode:
                faked = {
                    name: mode.from_tensor(v) if torch.is_tensor(v) else v
                    for name, v in sample.kwargs.items()
                }
                fake = results(mode.from_tensor(sample.input), sample.args, faked)
            for a, b in zip(real, fake, strict=True):
                assert (a.shape, a.stride(), a.dtype) == (b.shape, b.stride(), b.dtype)


def memory_formats(note):
    """ModuleInfo's test of memory formats: the output and the gradient keep the input's."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    for shape in ((2, 8, 5, 4), (2, 8, 3, 4, 5), (1, 8, 1, 1), (2, 1, 4, 4), (3, 8, 4, 1)):
        for memory_format in (torch.contiguous_format, formats[len(shape)]):
            note(f"{shape} {memory_format}")
            groups = 1 if shape[1] == 1 else 4
            x = torch.randn(shape).contiguous(memory_format=memory_format).requires_grad_()
            y = GroupNorm(groups, shape[1])(x)
            (dx,) = torch.autograd.grad(y, x, torch.randn(shape))
            assert y.is_contiguous(memory_format=memory_format)
            assert dx.is_contiguous(memory_format=memory_format)


def module_samples(note):
    """ModuleInfo's inputs, through PyTorch's tests of a module: grad, gradgrad, pickle, repr."""
    import copy
    import pickle

    from torch.testing._internal.common_modules import module_db

    (info,) = [m for m in module_db if m.module_cls is torch.nn.GroupNorm]
    for training in (True, False):
        for sample in info.module_inputs_func(info, "cpu", torch.float64, True, training):
            note(f"{sample.constructor_input.args}")
            made, called = sample.constructor_input, sample.forward_input
            layer = GroupNorm(*made.args, **made.kwargs).double().train(training)
            theirs = torch.nn.GroupNorm(*made.args, **made.kwargs).double().train(training)
            assert set(layer.state_dict()) == set(theirs.state_dict())
            (x,) = called.args
            parameters = list(layer.parameters())

            def function(x, *parameters, layer=layer):
                names = [name for name, _ in layer.named_parameters()]
                given = dict(zip(names, parameters, strict=True))
                return torch.func.functional_call(layer, given, (x,))

            if x.numel():
                torch.autograd.gradcheck(function, (x, *parameters), check_batched_grad=True)
                torch.autograd.gradgradcheck(function, (x, *parameters), fast_mode=True)
            for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
                assert torch.equal(other(x), layer(x))


CHECKS = (
    composite_compliance, negative_views, gradients_of_every_kind, vmapped_gradients, fake_tensors,
    memory_formats, module_samples,
)  # fmt: skip


def run_all(note, step):
    """Name of each check that fails -> its traceback. PyTorch's material is imported once."""
    global SAMPLES_STEP
    SAMPLES_STEP = step
    warnings.simplefilter("ignore")
    failures = {}
    for check in CHECKS:
        try:
            check(lambda text, name=check.__name__: note(f"{name}: {text}"))
        except Exception:
            failures[check.__name__] = traceback.format_exc()
    return failures


@pytest.fixture(
    scope="module",
    params=[pytest.param(5, id="some"), pytest.param(1, id="all", marks=pytest.mark.slow)],
)
def failures(request):
    return in_child(run_all, request.param)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_pytorchs(check, failures):
    assert check.__name__ not in failures, failures[check.__name__]


# ---- numbers that other projects test with ------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "groups", "expected"),
    [  # x and the result as (N, C, *)
        (
            [[[-1, 1], [1, 3], [0, -4], [2, -2]]],
            4,
            [[[-1, 1], [-1, 1], [1, -1], [1, -1]]],
        ),
        (
            [[-1, -1, 1, 1, 2, 2, 0, -2]],
            1,
            [[-0.898, -0.898, 0.539, 0.539, 1.257, 1.257, -0.180, -1.616]],
        ),
        (
            [[-1, -1, 1, 1, 2, 2, 0, -2]],
            2,
            [[-1, -1, 1, 1, 0.904, 0.904, -0.301, -1.507]],
        ),
        (
            [[[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15]]],
            2,
            [[[-1.5274, -1.0910, -0.6546, -0.2182], [0.2182, 0.6546, 1.0910, 1.5274]] * 2],
        ),
    ],
    ids=["instance norm", "one group", "two groups", "a map"],
)  # fmt: skip
def test_the_numbers_of_keras(x, groups, expected):
    """Keras's group_normalization_test.py, whose eps is 1e-3."""
    y = group_norm(torch.tensor(x, dtype=torch.float32), groups, eps=1e-3)
    assert torch.allclose(y, torch.tensor(expected, dtype=torch.float32), atol=PRINTED)


def by_formula(x, scale, bias, groups, eps):
    """The formula that ONNX's and flax's tests compare with, in float64."""
    shape, x = x.shape, x.double()
    grouped = x.reshape(shape[0], groups, -1)
    mean = grouped.mean(-1, keepdim=True)
    var = grouped.var(-1, keepdim=True, correction=0)
    y = ((grouped - mean) / torch.sqrt(var + eps)).reshape(shape)
    axes = [1, -1, *[1] * (len(shape) - 2)]
    return scale.double().reshape(axes) * y + bias.double().reshape(axes)


# (shape, groups): ONNX's backend test and flax's; Liger's; apex's channel counts and those of
# oneDNN's shapes_sd and shapes_ci, with fewer positions.
SHAPES = (
    ((3, 4, 2, 2), 2), ((2, 32, 5, 4, 4), 2),
    ((1, 4, 8), 2), ((4, 32, 64), 32), ((2, 12, 512), 3), ((8, 4, 16), 1),
    ((1, 128, 16, 16), 16), ((2, 320, 8, 8), 32), ((2, 640, 4, 4), 16), ((1, 960, 4, 4), 32),
    ((1, 1280, 2, 2), 32), ((2, 1920, 2, 2), 32), ((1, 2560, 1, 1), 32), ((2, 30, 9, 9), 3),
    ((1, 32, 3, 3, 3), 8), ((2, 128, 24, 24), 32), ((1, 8, 24, 25), 2), ((7, 36, 5), 9),
)  # fmt: skip


@pytest.mark.parametrize("eps", [1e-5, 1e-2])
def test_shapes_of_other_projects(eps):
    for shape, groups in SHAPES:
        generator = torch.Generator().manual_seed(1)
        x = -2.3 + 0.5 * torch.randn(shape, generator=generator)  # apex's numbers
        scale, bias = torch.randn(shape[1]), torch.randn(shape[1])
        true = by_formula(x, scale, bias, groups, eps)
        for layout in (torch.contiguous_format, torch.channels_last):
            if layout == torch.channels_last and x.dim() != 4:
                continue
            y = group_norm(x.contiguous(memory_format=layout), groups, scale, bias, eps)
            assert (y.double() - true).abs().max() <= 2 * LAYER, shape
        assert (F.group_norm(x, groups, scale, bias, eps).double() - true).abs().max() <= NETWORK
