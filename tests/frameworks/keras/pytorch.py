"""A PyTorch model beside a Keras one."""

import torch

from tests.frameworks.keras.gradients import to_numpy


def trained(model, shape=(8, 3, 9, 9)):
    """Statistics and parameters that are not those of the start."""
    model.train()
    for parameter in model.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    model(torch.randn(shape))
    return model.eval()


def both(keras_model, torch_model, shape=(2, 3, 9, 9)):
    x = torch.randn(shape)
    with torch.no_grad():
        expected = torch_model(x).numpy()
    return to_numpy(keras_model(x.permute(0, 2, 3, 1).numpy())), expected


def assert_same_weights(a, b):
    for name, tensor in a.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(tensor, b.state_dict()[name]), name
