"""The check of words: the project is clean, and the check can fail."""

from pathlib import Path

import check_words
import pytest

ROOT = Path(check_words.__file__).parent.parent
ENTRIES = check_words.banned(check_words.WORDS.read_text())


def test_the_project_uses_none_of_the_words():
    paths = [ROOT / name for name in check_words.SEARCHED if (ROOT / name).exists()]
    assert list(check_words.offences(paths)) == []


@pytest.mark.parametrize("word", [word for _, word, _ in ENTRIES])
def test_every_word_of_the_list_is_found(tmp_path, word):
    file = tmp_path / "planted.py"
    file.write_text(f"# The first line.\nx = 1  # {word}, in a comment\n")
    assert any(f"planted.py:2: {word!r}" in found for found in check_words.offences([tmp_path]))


def test_a_phrase_is_found_across_lines_and_a_word_only_where_it_stands_alone(tmp_path):
    (pattern, *_), *_ = check_words.banned("big apples -> fruit")
    assert pattern.search("It grows Big\napples.")
    (pattern, *_), *_ = check_words.banned("plum -> fruit")
    assert pattern.search("the plum is ripe")
    assert not pattern.search("plumage, aplum, plum_tree")


def test_a_word_with_a_capital_is_found_as_it_stands():
    (pattern, *_), *_ = check_words.banned("Pear -> fruit")
    assert pattern.search("a Pear")
    assert not pattern.search("a pear")
