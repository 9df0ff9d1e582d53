"""Weights of a PyTorch model beside those of another framework: names, layouts, settings.

What the adapters of the frameworks share, on numpy arrays. An adapter lists the arrays of its
model as `Slot`s (`matching`) and hands them to a transfer (`transfer`), which matches them with a
state dict, compares settings, and raises one error that lists all that does not fit, before
anything is loaded.
"""

from groupnorm.frameworks.weights.problems import WeightsError

__all__ = ["WeightsError"]
