"""Files of the tests in ONNX Runtime, and how far from float64 they may be."""

import numpy as np
import torch

from tests.tolerances import LAYER, bound

OFFSETS = (0, 10, 100, 1e3, 1e4)


def session(path):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def draws(shape, dtype=np.float32):
    """An input for each offset."""
    rng = np.random.default_rng(1)
    for offset in OFFSETS:
        yield (rng.standard_normal(shape) + offset).astype(dtype)


def assert_accurate(path, shape, expected, dtype=np.float32, name="x"):
    """The file's first output equals float64 at every offset."""
    run = session(path)
    for x in draws(shape, dtype):
        (y,) = run.run(None, {name: x})[:1]
        truth = expected(x)
        assert y.dtype == x.dtype
        assert np.abs(y - truth).max() <= allowed(dtype, np.abs(truth).max())


def allowed(dtype, largest):
    """Of a scale up to 1.5: no term for the mean, which is subtracted."""
    if dtype == np.float16:
        return bound(torch.float16, 0, 1.5, largest)
    return LAYER
