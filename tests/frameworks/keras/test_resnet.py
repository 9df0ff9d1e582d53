"""The ResNets of Keras are those of PyTorch, by their weights."""

import math

import numpy as np
import pytest
import torch
from torch import nn

keras = pytest.importorskip("keras")

from groupnorm.frameworks.keras import from_torch, resnet, to_torch  # noqa: E402
from groupnorm.models.classification.resnet_cifar import ResNetCifar  # noqa: E402
from tests.frameworks.keras.gradients import to_numpy, value_and_gradients  # noqa: E402
from tests.frameworks.keras.pytorch import assert_same_weights, both, trained  # noqa: E402
from tests.frameworks.trained import NORM, assert_the_same, trained_resnet20  # noqa: E402
from tests.tolerances import NETWORK  # noqa: E402


@pytest.mark.parametrize("norm", ["gn+ws", "gn:groups=8", "bn", "none"])
def test_the_resnet_is_that_of_pytorch(norm):
    source = trained(ResNetCifar(8, norm=norm), (4, 3, 32, 32))
    model = resnet(8, norm=norm)
    count = math.inf if norm == "bn" else None
    from_torch(source, model, count=count)
    found, expected = both(model, source, (2, 3, 32, 32))
    np.testing.assert_allclose(found, expected, rtol=0, atol=NETWORK * abs(expected).max())
    again = ResNetCifar(8, norm=norm)
    to_torch(model, again, count=count)
    assert_same_weights(source, again)


def test_two_steps_of_sgd_are_those_of_pytorch():
    source = trained(ResNetCifar(8, norm="gn:groups=4+ws"), (4, 3, 16, 16)).train()
    model = resnet(8, norm="gn:groups=4+ws", input_shape=(16, 16, 3))
    from_torch(source, model)
    before = {name: tensor.clone() for name, tensor in source.state_dict().items()}
    optimizer = torch.optim.SGD(source.parameters(), lr=0.2)
    variables = model.trainable_variables
    for step in range(2):
        images, labels = torch.randn(4, 3, 16, 16), torch.tensor([step, 3, 5, 7])
        optimizer.zero_grad()
        nn.functional.cross_entropy(source(images), labels).backward()
        optimizer.step()
        for variable, gradient in zip(variables, gradients(model, images, labels), strict=True):
            variable.assign_sub(0.2 * gradient)
    after = ResNetCifar(8, norm="gn:groups=4+ws")
    to_torch(model, after)
    for name, tensor in source.state_dict().items():
        torch.testing.assert_close(after.state_dict()[name], tensor, rtol=0, atol=NETWORK)
        moved = float((tensor - before[name]).abs().max())
        assert moved > 5 * NETWORK, name  # so that a wrong gradient would show


def gradients(model, images, labels):
    """Of the mean cross entropy, for each trainable variable."""
    x = keras.ops.convert_to_tensor(images.permute(0, 2, 3, 1).numpy())
    truth = keras.ops.convert_to_tensor(labels.numpy())
    values = [keras.ops.convert_to_tensor(to_numpy(v)) for v in model.trainable_variables]

    def loss(*values):
        logits = model.stateless_call(list(values), [], x, training=True)[0]
        losses = keras.losses.sparse_categorical_crossentropy(truth, logits, from_logits=True)
        return keras.ops.mean(losses)

    return value_and_gradients(loss, values, keras.ops.ones(()))[1]


def test_another_depth_is_refused():
    with pytest.raises(ValueError, match="8, 14, 20, 32, 44, 56, got 9"):
        resnet(9)


@pytest.mark.slow
def test_a_trained_network_has_the_same_test_error_to_the_image():
    network, images, labels = trained_resnet20()
    model = resnet(20, norm=NORM)
    from_torch(network, model)
    parts = [part.permute(0, 2, 3, 1).numpy() for part in images.split(100)]
    found = np.concatenate([to_numpy(model(part)) for part in parts])
    assert_the_same(found, network, images, labels, NETWORK)
    again = ResNetCifar(20, norm=NORM)
    to_torch(model, again)
    assert_same_weights(network, again)
