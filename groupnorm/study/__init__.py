"""Many runs: plan, store, runners, results, report.

What needs torch loads on first use, so that a study can be planned without it.
"""

from typing import TYPE_CHECKING

from groupnorm.lazy import lazy
from groupnorm.study.plan import Plan, PlanError

if TYPE_CHECKING:
    from groupnorm.study.execute import run_study
    from groupnorm.study.runners.ray.connection import Cluster

__all__ = ["Cluster", "Plan", "PlanError", "run_study"]

__getattr__ = lazy(
    __name__,
    {
        "Cluster": "groupnorm.study.runners.ray.connection",
        "run_study": "groupnorm.study.execute",
    },
)
