"""The contract of every norm layer that the factory builds."""

import copy
import pickle

import pytest
import torch

from groupnorm.layers import norm_layer
from groupnorm.spec import NormSpec
from tests.tolerances import DEEP, NETWORK, bound

SPECS = ["gn", "gn:groups=2", "gn:size=4", "gn:affine=false", "ln", "in", "bn", "bn:affine=false",
         "syncbn", "none", "none+nf", "gn+ws", "bn:eps=0.001", "ln2d", "ln2d:affine=false",
         "frozenbn", "brn", "brn:r=3,d=5,ramp=8", "brn:affine=false", "frn", "frn:learn_eps=true",
         "frn:affine=false", "evonorm_s0:groups=2", "evonorm_s0:affine=false"]  # fmt: skip
SHAPES = [(6, 8), (6, 8, 5), (6, 8, 5, 3), (6, 8, 2, 3, 4)]

pytestmark = pytest.mark.parametrize("spec", SPECS)


def build(spec, **options):
    torch.manual_seed(0)
    layer = norm_layer(spec, batch_per_worker=3)(8, **options)
    for parameter in layer.parameters():
        if not parameter.is_meta:
            torch.nn.init.normal_(parameter)
    return layer


def data(dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(6, 8, 5, 3, generator=generator).to(dtype) * 2 + 3


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shape_dtype_and_layout(spec, shape):
    if len(shape) == 2 and spec in ("in", "gn", "gn:affine=false", "gn+ws"):
        pytest.skip("one value per group: tested in ops/group_norm/test_numerics.py")
    if len(shape) == 2 and spec in ("frn", "frn:affine=false"):
        pytest.skip("one position: tested in test_filter_response_norm.py")
    x = torch.randn(shape)
    y = build(spec)(x)
    assert y.shape == x.shape
    assert y.dtype == x.dtype
    if len(shape) == 4:
        x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
        y = build(spec)(x)
        assert y.is_contiguous(memory_format=torch.channels_last)
        (gradient,) = torch.autograd.grad(y, x, torch.randn_like(y))
        assert gradient.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(0, 8, 5, 3), (6, 8, 0, 3)], ids=str)
def test_an_input_without_values(spec, shape, training):
    layer = build(spec).train(training)
    before = copy.deepcopy(layer.state_dict())
    x = torch.randn(shape, requires_grad=True)
    y = layer(x)
    assert y.shape == shape
    y.sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in layer.parameters())
    before.pop("num_batches_tracked", None)
    assert all(torch.equal(layer.state_dict()[key], value) for key, value in before.items())


def test_a_gradient_in_another_layout(spec):
    x = data().contiguous(memory_format=torch.channels_last).requires_grad_()
    dy = torch.randn(6, 8, 5, 3)
    (mixed,) = torch.autograd.grad(build(spec)(x), x, dy)
    same = dy.contiguous(memory_format=torch.channels_last)
    (expected,) = torch.autograd.grad(build(spec)(x), x, same)
    largest = float(expected.abs().max())
    assert (mixed - expected).abs().max() <= 2 * bound(torch.float32, 5, 4 * largest, largest)


def test_state_dict_round_trip(spec):
    layer, other = build(spec), norm_layer(spec, batch_per_worker=3)(8)
    layer(data())
    other.load_state_dict(layer.state_dict())
    layer.eval(), other.eval()
    assert torch.equal(layer(data()), other(data()))


def test_deepcopy_and_pickle(spec):
    layer = build(spec)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(twin(data()), copy.deepcopy(layer)(data()))
        assert repr(twin) == repr(layer)


def test_the_factory_can_be_pickled(spec):
    factory = norm_layer(spec, batch_per_worker=3)
    assert pickle.loads(pickle.dumps(factory)) == factory


def test_meta_device_then_reset(spec):
    layer = norm_layer(spec, batch_per_worker=3)(8, device="meta")
    layer.to_empty(device="cpu")
    if hasattr(layer, "reset_parameters"):
        layer.reset_parameters()
    assert torch.equal(layer(data()), norm_layer(spec, batch_per_worker=3)(8)(data()))


def test_repr_names_the_numbers(spec):
    text = repr(build(spec))
    if spec.startswith("bn"):
        assert "batch_per_worker=3" in text
        assert "8, eps=" in text
    elif spec.startswith("brn"):
        assert "batch_per_worker=3" in text
        assert "ramp_steps=" in text
    elif spec.startswith(("gn", "ln:", "in", "evonorm")) or spec == "ln":
        assert "channels_per_group=" in text
    elif spec not in ("none", "none+nf", "syncbn"):
        assert "(8, eps=" in text


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_moving_to_another_dtype(spec, dtype):
    layer = build(spec).to(dtype)
    y = copy.deepcopy(layer)(data(dtype))
    assert y.dtype == dtype
    assert all(p.dtype == dtype for p in layer.parameters())
    true = layer.double()(data(dtype).double())
    largest = float(true.detach().abs().max())
    assert (y.double() - true).abs().max() <= bound(dtype, 5, 2 * largest, largest)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_input_with_single_parameters(spec, dtype, training):
    layer = build(spec).train(training)
    x = data(dtype)
    true = copy.deepcopy(layer).double()(x.double())
    y = layer(x)
    largest = float(true.detach().abs().max())
    assert y.dtype == dtype
    assert (y - true).abs().max() <= bound(dtype, 5, 2 * largest, largest)


def test_train_and_eval(spec):
    layer = build(spec)
    trained = layer(data())
    layer.eval()
    evaluated = layer(data())
    assert torch.equal(trained, evaluated) == (not NormSpec.parse(spec).uses_batch_statistics)
    before = copy.deepcopy(layer.state_dict())
    layer(data() + 100)
    assert all(torch.equal(before[k], v) for k, v in layer.state_dict().items())


def test_independence_of_the_other_images(spec):
    """A norm says of itself whether it looks at other images; in evaluation none does."""
    factory = norm_layer(spec, batch_per_worker=3)
    layer = build(spec)
    changed = data()
    changed[1:] += torch.randn(5, 8, 5, 3)
    same = torch.equal(layer(data())[0], layer(changed)[0])
    assert same == (not factory.spec.uses_batch_statistics)
    layer.eval()
    assert torch.equal(layer(data())[0], layer(changed)[0])


def test_gradients_of_single_images(spec):
    layer = build(spec).eval()
    parameters, buffers = dict(layer.named_parameters()), dict(layer.named_buffers())

    def loss(parameters, image):
        output = torch.func.functional_call(layer, (parameters, buffers), (image[None],))
        return output.square().sum()

    x = data()
    found = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, x)
    for index, image in enumerate(x):
        one = torch.func.grad(loss)(parameters, image)
        for name, gradient in one.items():
            torch.testing.assert_close(found[name][index], gradient, rtol=NETWORK, atol=DEEP)


def test_gradients_by_finite_differences(spec):
    layer = build(spec).double()
    if spec.startswith("brn"):
        # r and d are constants to autograd: hold them at their limits, for good.
        layer.momentum = 0
        layer.running_mean.fill_(-1e3)
        layer.running_var.fill_(1e-2)
        layer.num_batches_tracked.fill_(8)
    x = data(torch.float64)[:, :, :2, :2].contiguous().requires_grad_()
    assert torch.autograd.gradcheck(lambda x, *_: layer(x), (x, *layer.parameters()))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("training", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_compile_without_a_graph_break(spec, training):
    torch.compiler.reset()
    layer = build(spec).train(training)
    twin = copy.deepcopy(layer)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    ours, eager = compiled(data()), twin(data())
    largest = float(eager.detach().abs().max())
    assert (ours - eager).abs().max() <= 2 * bound(torch.float32, 5, 2 * largest, largest)
    for key, value in twin.state_dict().items():
        assert torch.allclose(layer.state_dict()[key], value), key


def test_export_in_evaluation(spec):
    layer = build(spec).eval()
    exported = torch.export.export(layer, (data(),)).module()
    expected = layer(data())
    largest = float(expected.detach().abs().max())
    error = (exported(data()) - expected).abs().max()
    assert error <= 2 * bound(torch.float32, 5, 2 * largest, largest)
