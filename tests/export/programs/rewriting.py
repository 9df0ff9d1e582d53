"""Networks as programs, rewritten."""

from groupnorm.export.programs.exported import exported
from groupnorm.export.programs.graphs import functional_module, rewrite


def module_of(network, x, rewriting, dynamic=()):
    """The module of a network's program, rewritten, and whether there was anything to rewrite."""
    module = functional_module(exported(network, (x,), dynamic))
    found = rewrite(module, rewriting)
    module.graph.lint()
    return module, found
