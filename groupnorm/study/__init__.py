"""Many runs: plan, runner, store, statistics, report."""

from groupnorm.study.execute import StudyOutcome, run_study
from groupnorm.study.plan import ExperimentOptions, Plan, PlanError, StudyOptions
from groupnorm.study.runners.ray_connection import Cluster

__all__ = [
    "Cluster",
    "ExperimentOptions",
    "Plan",
    "PlanError",
    "StudyOptions",
    "StudyOutcome",
    "run_study",
]
