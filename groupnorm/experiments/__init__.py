"""The catalogue of comparisons, each a small function, and their study plans."""

from groupnorm.experiments.catalog import EXPERIMENTS, build, study_plan
from groupnorm.experiments.experiment import Experiment
from groupnorm.experiments.options import Options

__all__ = ["EXPERIMENTS", "Experiment", "Options", "build", "study_plan"]
