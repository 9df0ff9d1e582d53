"""What makes a layer one node of a torch.fx graph."""

from __future__ import annotations

from typing import Any, Self


class FxLeaf:
    """A layer that torch.fx does not look into, as it does not look into those of torch.nn.

    Tracers (the default one, those of torchvision's and timm's feature extraction, of
    `prepare_fx` and of `fuse`) ask `module.__module__` and take what starts with `torch.nn` for a
    leaf. So every instance answers `torch.nn`. The class keeps its own `__module__`, which pickle
    and repr go by, and calls cost nothing more. Subclasses are leaves too.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """An instance whose own `__module__` is torch.nn, also when it is unpickled."""
        self = super().__new__(cls)
        self.__dict__["__module__"] = "torch.nn"
        return self
