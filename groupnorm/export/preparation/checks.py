"""What a network must be before it can be exported."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy

from groupnorm.conversion.walk import find_norms
from groupnorm.export.errors import ExportError


def check_exportable(model: nn.Module) -> None:
    """Check that a network's layers hold their values, and its norms are in evaluation mode.

    Raises:
        ExportError: the message names the first layer and the cure.
        TypeError: the model is no module.
        ValueError: it is compiled by torch.compile.
    """
    norms = find_norms(model, None)
    for name, module in model.named_modules():
        where = f"{name or 'the network'} ({type(module).__name__})"
        if isinstance(module, torch.jit.ScriptModule):
            raise ExportError(
                f"{where} is in TorchScript, where layers cannot be replaced; give the network "
                "before torch.jit.script or torch.jit.trace"
            )
        own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        if any(is_lazy(value) for value in own):
            raise ExportError(f"{where} has no shape yet; run the network once")
        if any(value.is_meta for value in own):
            raise ExportError(f"{where} has no values (meta device); load the weights first")
    for norm in norms:
        where = f"{norm.names[0] or 'the network'} ({type(norm.module).__name__})"
        if norm.module.training:
            raise ExportError(f"{where} is in training mode; call model.eval() before the export")
        if isinstance(norm.module, _BatchNorm) and norm.module.running_mean is None:
            raise ExportError(
                f"{where} stores no statistics (track_running_stats=False), so that its output "
                "depends on the other images of the batch; train it with statistics, or convert "
                "the network to group norm (groupnorm.convert)"
            )
