"""Which folders may hold a study or a run."""

import pytest

from groupnorm.study.store import StoreError, check_run_place, check_study_place


@pytest.mark.parametrize("check", [check_run_place, check_study_place])
def test_a_file_is_no_place_in_the_words_of_the_command_line(tmp_path, check):
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"^--out takes a folder, .*file is a file; name another$"):
        check(tmp_path / "file")
