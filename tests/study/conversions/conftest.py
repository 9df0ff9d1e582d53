"""A teacher that was trained for two steps, which tests of conversions share."""

import pytest

from groupnorm.experiments import Options, study_plan
from groupnorm.study.conversions.teacher import RunTeacher
from groupnorm.study.plan import vary
from groupnorm.study.record import record_run


@pytest.fixture(scope="session")
def teacher_config():
    (config,) = study_plan("convert", Options(scale="smoke")).configs.values()
    return vary(config, width=0.25)


@pytest.fixture(scope="session")
def teacher_run(tmp_path_factory, teacher_config):
    """The folder of its run; tests leave it as it is."""
    folder = tmp_path_factory.mktemp("teacher") / "runs" / teacher_config.run_name()
    record_run(teacher_config, folder, threads=1)
    return folder


@pytest.fixture(scope="session")
def teacher(teacher_run):
    return RunTeacher(teacher_run, "cpu", None)
