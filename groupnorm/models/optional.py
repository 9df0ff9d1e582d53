"""What the networks need beside torch: torchvision, imported when one of them is built."""

from __future__ import annotations

import importlib
from typing import Any


def torchvision_models() -> Any:
    """The module `torchvision.models`.

    Raises:
        ImportError: torchvision is not installed; the message says how to get it.
    """
    try:
        return importlib.import_module("torchvision.models")
    except ModuleNotFoundError as error:
        raise ImportError(
            "the ImageNet ResNets, VGG-16 and the detectors are built on torchvision, which is "
            "missing: "
            "pip install 'groupnorm[study]'"
        ) from error
