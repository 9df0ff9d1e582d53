import pytest

from groupnorm.cli.options import split_norms


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
