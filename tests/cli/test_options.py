import pytest

from groupnorm.cli.options import read_settings, settings_help, with_address


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        ([], []),
        (["--cluster"], ["--cluster", "local"]),
        (["--cluster", "--out", "x"], ["--cluster", "local", "--out", "x"]),
        (["--cluster", "seeds=2"], ["--cluster", "local", "seeds=2"]),
        (["--cluster", "auto", "--out", "x"], ["--cluster", "auto", "--out", "x"]),
        (["--cluster=host:1", "--seeds", "2"], ["--cluster=host:1", "--seeds", "2"]),
        (["--seeds", "2"], ["--seeds", "2"]),
    ],
)
def test_a_bare_cluster_is_local(arguments, given):
    assert with_address(arguments) == given


def test_settings_are_read_at_their_first_equals_sign():
    settings = ["norm=gn:groups=8", "epochs=1"]
    assert read_settings(settings) == {"norm": "gn:groups=8", "epochs": "1"}
    with pytest.raises(ValueError, match="expected KEY=VALUE, got 'epochs'"):
        read_settings(["epochs"])


def test_a_key_that_is_given_twice_is_an_error():
    with pytest.raises(ValueError, match=r"^norm is given twice, as norm=bn and as norm=bn$"):
        read_settings(["norm=bn", "epochs=1", "norm=bn"])


def test_every_field_has_a_line_of_the_help():
    assert settings_help("Fields.", {"a": "one\n  thing", "b": "two"}) == (
        "Fields.\n\na: one thing\n\nb: two"
    )
