"""The made-up study of arms that tests of reports share."""

import pytest

from tests.study.fake_store import arms_study, loaded


@pytest.fixture(scope="session")
def arms(tmp_path_factory):
    """Three arms of box AP with two seeds, and the rows that it has."""
    return loaded(arms_study(tmp_path_factory.mktemp("arms")))
