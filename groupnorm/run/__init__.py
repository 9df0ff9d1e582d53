"""Configuration -> model, data, task and loop: where library and experiment meet.

What needs torch loads on first use.
"""

from typing import TYPE_CHECKING

from groupnorm.lazy import lazy
from groupnorm.run.tasks import check, config_class, setup_of

if TYPE_CHECKING:
    from groupnorm.run.train import RunResult, run

__all__ = ["RunResult", "check", "config_class", "run", "setup_of"]

__getattr__ = lazy(__name__, {"RunResult": "groupnorm.run.train", "run": "groupnorm.run.train"})
