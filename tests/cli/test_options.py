import pytest

from groupnorm.cli.options import split_norms, with_address


@pytest.mark.parametrize(
    ("text", "specs"),
    [
        ("bn", ("bn",)),
        ("bn,gn", ("bn", "gn")),
        ("gn:groups=8,eps=1e-6+ws,in", ("gn:groups=8,eps=1e-6+ws", "in")),
        ("bn:eps=1e-3,affine=false, ln", ("bn:eps=1e-3,affine=false", "ln")),
        ("bn,xn", ("bn", "xn")),
    ],
)
def test_split_norms(text, specs):
    assert split_norms(text) == specs


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        ([], []),
        (["--cluster"], ["--cluster", "local"]),
        (["--cluster", "--out", "x"], ["--cluster", "local", "--out", "x"]),
        (["--cluster", "auto", "--out", "x"], ["--cluster", "auto", "--out", "x"]),
        (["--cluster=host:1", "--seeds", "2"], ["--cluster=host:1", "--seeds", "2"]),
        (["--seeds", "2"], ["--seeds", "2"]),
    ],
)
def test_a_bare_cluster_is_local(arguments, given):
    assert with_address(arguments) == given
