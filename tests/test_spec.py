"""NormSpec: grammar, round trips, errors that list what is known, the divisor rule."""

import copy
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groupnorm.spec import KINDS, NormSpec, NormSpecError


@st.composite
def specs(draw):
    kind = draw(st.sampled_from(KINDS))
    fields = {"ws": draw(st.booleans())}
    if kind == "none":
        fields["nf"] = not fields["ws"] and draw(st.booleans())
    if kind == "frn":
        fields["learn_eps"] = draw(st.booleans())
    if kind == "brn":
        fields["r"] = draw(st.one_of(st.none(), st.floats(1, 1e7)))
        fields["d"] = draw(st.one_of(st.none(), st.floats(0, 1e7), st.integers(0, 9)))
        fields["ramp"] = draw(st.one_of(st.none(), st.integers(0, 10_000_000)))
    if kind in ("gn", "evonorm_s0"):
        key = draw(st.sampled_from(["groups", "size", None]))
        if key:
            auto = st.just("auto") if key == "groups" else st.nothing()
            fields[key] = draw(st.integers(1, 4096) | auto)
    if kind != "none":
        fields["eps"] = draw(st.one_of(st.none(), st.floats(1e-12, 0.5)))
    if kind not in ("none", "frozenbn"):
        fields["affine"] = draw(st.booleans())
    return NormSpec(kind, **fields)


@given(st.text(max_size=20))
def test_any_text_is_read_or_refused(text):
    """No other exception, and what is read can be written and read again."""
    for candidate in (text, f"gn:{text}", f"bn:eps={text}", f"gn+{text}"):
        try:
            spec = NormSpec.parse(candidate)
        except NormSpecError:
            continue
        assert NormSpec.parse(str(spec)) == spec


@given(specs())
def test_round_trips(spec):
    assert NormSpec.parse(str(spec)) == spec
    assert NormSpec.from_dict(spec.to_dict()) == spec
    assert NormSpec.parse(spec) is spec
    assert hash(NormSpec.parse(str(spec))) == hash(spec)


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("gn", NormSpec("gn", groups=32, eps=1e-5)),
        ("gn:groups=16", NormSpec("gn", groups=16)),
        ("gn:size=16", NormSpec("gn", size=16)),
        ("gn:groups=auto", NormSpec("gn", groups="auto")),
        ("evonorm_s0:groups=AUTO", NormSpec("evonorm_s0", groups="auto")),
        ("ln", NormSpec("ln")),
        ("in", NormSpec("in")),
        ("bn+ws", NormSpec("bn", ws=True)),
        ("gn:groups=16,eps=1e-6+ws", NormSpec("gn", groups=16, eps=1e-6, ws=True)),
        ("bn:affine=false", NormSpec("bn", affine=False)),
        (" GN:Groups=8 ", NormSpec("gn", groups=8)),
        ("frn", NormSpec("frn", eps=1e-6)),
        ("frn:learn_eps=true", NormSpec("frn", learn_eps=True)),
        ("brn", NormSpec("brn", r=1.5, d=0.5, ramp=0)),
        ("brn:r=3,d=5,ramp=40000+ws", NormSpec("brn", r=3, d=5, ramp=40_000, ws=True)),
        ("none+nf", NormSpec("none", nf=True)),
    ],
)
def test_grammar(text, spec):
    assert NormSpec.parse(text) == spec


@pytest.mark.parametrize(
    ("text", "string"),
    [("gn:groups=32", "gn"), ("gn:eps=0.00001", "gn"), ("bn:affine=true", "bn"),
     ("gn:size=4,eps=0.001+ws", "gn:size=4,eps=0.001+ws"), ("brn:r=1.5,ramp=0", "brn"),
     ("brn:d=5", "brn:d=5.0"), ("none+nf", "none+nf")],
)  # fmt: skip
def test_canonical_string(text, string):
    assert str(NormSpec.parse(text)) == string


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("xn", "unknown normalization 'xn'; known kinds: gn, ln, in, ln2d, bn"),
        ("", "unknown normalization ''"),
        ("gn:group=4", "unknown key 'group'; known keys: groups, size, eps, affine"),
        ("ln:groups=4", "unknown key 'groups'; known keys: eps, affine"),
        ("none:eps=1", "none takes no keys"),
        ("gn:groups=0", "groups must be a positive integer or auto, got 0"),
        ("gn:groups=x", "groups must be a positive integer or auto, got 'x'"),
        ("gn:size=auto", "size must be a positive integer, got 'auto'"),
        ("ln:groups=auto", "ln: unknown key 'groups'; known keys: eps, affine"),
        ("gn:groups=auto,size=4", "not both; got groups=auto, size=4"),
        ("gn:eps=2", "eps must lie between 0 and 1, got 2.0"),
        ("gn:eps=nan", "eps must lie between 0 and 1"),
        ("gn:eps=small", "eps must be a number, got 'small'"),
        ("gn:affine=1", "affine must be true or false, got '1'"),
        ("gn:groups=4,size=4", "not both; got groups=4, size=4"),
        ("gn:groups=4,groups=8", "groups is given twice"),
        ("gn:", "nothing follows the colon"),
        ("gn:groups", "expected groups=value, got 'groups'"),
        ("gn:groups=10000001", "groups must be at most 10000000, got 10000001"),
        ("evonorm_s0:size=99999999999", "size must be at most 10000000, got 99999999999"),
        ("gn+xs", r"unknown suffix \+xs; known suffixes, one at a time: \+ws, and \+nf after"),
        ("gn+nf", r"gn: \+nf stands in for a norm; write 'none\+nf'"),
        ("none+ws+nf", r"unknown suffix \+ws\+nf"),
        ("bn:r=2", "bn: unknown key 'r'; known keys: eps, affine"),
        ("brn:r=0.5", "r must lie between 1 and 10000000, got 0.5"),
        ("brn:d=nan", "d must lie between 0"),
        ("brn:ramp=1.5", "ramp must be a number of steps, got '1.5'"),
        ("frn:learn_eps=yes", "learn_eps must be true or false, got 'yes'"),
        ("gn+ws+ws", r"unknown suffix \+ws\+ws"),
    ],
)
def test_errors_list_what_is_known(text, message):
    with pytest.raises(NormSpecError, match=message):
        NormSpec.parse(text)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NormSpec.parse(3), "got int"),
        (lambda: NormSpec("gn", groups=True), "positive integer or auto, got True"),
        (lambda: NormSpec("gn", groups="Auto"), "positive integer or auto, got 'Auto'"),
        (lambda: NormSpec("bn", groups=4), "bn: unknown key 'groups'"),
        (lambda: NormSpec("none", affine=False), "none takes no keys"),
        (lambda: NormSpec.from_dict({"kind": "gn", "group": 3}), r"unknown keys \['group'\]"),
        (lambda: NormSpec.from_dict({}), "'kind' is missing"),
        (lambda: NormSpec.from_dict({"kind": "gn", "eps": "1e-5"}), "a number, got '1e-5'"),
        (lambda: NormSpec.from_dict({"kind": "gn", "affine": "false"}), "or False, got 'false'"),
        (lambda: NormSpec("bn", r=2.0), "bn: unknown key 'r'"),
        (lambda: NormSpec("bn", learn_eps=True), "bn: unknown key 'learn_eps'"),
        (lambda: NormSpec("brn", ramp=0.5), "ramp must be a number of steps, got 0.5"),
        (lambda: NormSpec("brn", d="1"), "d must be a number, got '1'"),
        (lambda: NormSpec("none", ws=True, nf=True), r"none\+ws: \+nf stands in"),
        (lambda: NormSpec("gn", ws=1), "ws must be True or False, got 1"),
        (lambda: NormSpec("bn").num_groups(8), "bn has no groups"),
        (lambda: NormSpec("gn").num_groups(0), "positive, got 0"),
    ],
)
def test_other_errors(make, message):
    with pytest.raises(NormSpecError, match=message):
        make()


@given(st.integers(1, 500), st.integers(1, 64))
def test_divisor_rule(channels, asked):
    groups = NormSpec("gn", groups=asked).num_groups(channels)
    assert channels % groups == 0
    assert groups <= asked
    assert not any(channels % larger == 0 for larger in range(groups + 1, asked + 1))
    by_size = channels // NormSpec("gn", size=asked).num_groups(channels)
    assert channels % by_size == 0
    assert by_size <= asked
    assert not any(channels % larger == 0 for larger in range(by_size + 1, asked + 1))


@given(st.integers(1, 5000))
def test_groups_auto_depend_on_the_channels_alone(channels):
    """The largest divisor that is at most 32 and leaves at least 4 channels per group."""
    for kind in ("gn", "evonorm_s0"):
        groups = NormSpec(kind, groups="auto").num_groups(channels)
        fitting = [g for g in range(1, 33) if channels % g == 0 and channels // g >= 4]
        assert groups == max(fitting, default=1)


@pytest.mark.parametrize(
    ("channels", "groups"), [(64, 16), (128, 32), (256, 32), (16, 4), (24, 6), (3, 1), (7, 1)]
)
def test_groups_auto_of_usual_layers(channels, groups):
    assert NormSpec.parse("gn:groups=auto").num_groups(channels) == groups


def test_batch_statistics():
    using = {kind for kind in KINDS if NormSpec(kind).uses_batch_statistics}
    assert using == {"bn", "syncbn", "brn"}


def test_kinds_are_the_same_whatever_the_groups_but_not_with_standardized_weights():
    gn = NormSpec("gn")
    assert NormSpec.parse("gn:groups=8,eps=1e-6").same_kind(gn)
    assert not NormSpec.parse("gn+ws").same_kind(gn)
    assert not NormSpec("ln").same_kind(gn)


def test_norms_with_their_own_activation():
    bringing = {kind for kind in KINDS if NormSpec(kind).brings_activation}
    assert bringing == {"frn", "evonorm_s0"}


def test_it_is_frozen():
    with pytest.raises(AttributeError):
        NormSpec("gn").groups = 4


def test_an_eps_of_its_own_and_group_norms_are_known():
    specs = {
        text: NormSpec.parse(text) for text in ("gn:groups=8", "in", "ln", "bn:eps=1e-3", "frn")
    }
    assert [text for text, spec in specs.items() if spec.is_group_norm] == [
        "gn:groups=8",
        "in",
        "ln",
    ]
    assert [spec.own_eps for spec in specs.values()] == [None, None, None, 1e-3, None]


@pytest.mark.parametrize(
    ("spec", "given_options", "text"),
    [
        (NormSpec("gn"), set(), "gn"),
        (NormSpec.parse("gn"), set(), "gn"),
        (NormSpec("gn", groups=32), {"groups"}, "gn:groups=32"),
        (
            NormSpec.parse("gn:groups=32,eps=1e-5+ws"),
            {"groups", "eps"},
            "gn:groups=32,eps=1e-05+ws",
        ),
        (NormSpec("gn", size=8), {"size"}, "gn:size=8"),
        (NormSpec("bn", eps=1e-5), {"eps"}, "bn:eps=1e-05"),
        (NormSpec("bn", eps=1e-3), {"eps"}, "bn:eps=0.001"),
    ],
)
def test_a_spec_knows_which_options_were_given(spec, given_options, text):
    for same in (spec, copy.deepcopy(spec), pickle.loads(pickle.dumps(spec))):
        assert same.given == given_options
        assert same.as_given == text
        assert same.own_eps == (spec.eps if "eps" in given_options else None)
    assert NormSpec.parse(text).given == given_options


def test_what_was_given_makes_no_other_spec():
    one, other = NormSpec("gn"), NormSpec("gn", groups=32, eps=1e-5)
    assert (one, hash(one), str(one), repr(one)) == (other, hash(other), str(other), repr(other))
    assert one.to_dict() == other.to_dict()
    assert "_given" not in one.to_dict()
    assert NormSpec.from_dict(other.to_dict()).given == set()
    assert NormSpec.from_dict(NormSpec("gn", groups=8).to_dict()).given == {"groups"}
    with pytest.raises(NormSpecError, match="unknown keys"):
        NormSpec.from_dict({"kind": "gn", "_given": []})


def test_a_spec_pickled_before_it_knew_what_was_given_is_read():
    old = object.__new__(NormSpec)
    old.__setstate__(NormSpec("gn", groups=8).__getstate__()[:-1])
    assert old == NormSpec("gn", groups=8)
    assert (old.given, old.own_eps) == ({"groups"}, None)
