"""Many runs: plan, runner, store, statistics, report.

What needs torch loads on first use, so that a study can be planned without it.
"""

from typing import TYPE_CHECKING

from groupnorm.lazy import lazy
from groupnorm.study.plan import Plan, PlanError

if TYPE_CHECKING:
    from groupnorm.study.execute import StudyOutcome, run_study
    from groupnorm.study.runners.ray.connection import Cluster

__all__ = ["Cluster", "Plan", "PlanError", "StudyOutcome", "run_study"]

__getattr__ = lazy(
    __name__,
    {
        "Cluster": "groupnorm.study.runners.ray.connection",
        "StudyOutcome": "groupnorm.study.execute",
        "run_study": "groupnorm.study.execute",
    },
)
