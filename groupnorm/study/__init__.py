"""Many runs: plan, runner, store, statistics, report."""

from groupnorm.study.cluster_connection import Cluster
from groupnorm.study.execute import StudyOutcome, run_study
from groupnorm.study.experiments import experiment_plan
from groupnorm.study.plan import ExperimentOptions, Plan, PlanError, StudyOptions
from groupnorm.study.studies import STUDIES

__all__ = [
    "STUDIES",
    "Cluster",
    "ExperimentOptions",
    "Plan",
    "PlanError",
    "StudyOptions",
    "StudyOutcome",
    "experiment_plan",
    "run_study",
]
