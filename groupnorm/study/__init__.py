"""Many runs: plan, runner, store, statistics, report."""

from groupnorm.study.cluster_connection import Cluster
from groupnorm.study.execute import StudyOutcome, run_study
from groupnorm.study.plan import Plan, PlanError, StudyOptions
from groupnorm.study.studies import STUDIES

__all__ = ["STUDIES", "Cluster", "Plan", "PlanError", "StudyOptions", "StudyOutcome", "run_study"]
