"""The table of runtimes."""

import pytest

from groupnorm.export.errors import ExportError
from groupnorm.export.forms import FORMS
from groupnorm.export.targets import TARGETS, form_for, forms_for, runtime_of, target_of


@pytest.mark.parametrize("to", TARGETS)
def test_every_row_names_forms_and_a_module(to):
    assert {form for forms in TARGETS[to].forms.values() for form in forms} <= set(FORMS)
    assert TARGETS[to].dynamic in ("any", "positions", "nothing")
    assert {"versions", "write", "load", "describe"} <= set(dir(runtime_of(to)))


def test_unknown_runtimes_and_dtypes_are_refused_with_the_known_ones():
    with pytest.raises(ExportError, match=r"unknown runtime 'tensorrt'; known: onnxruntime, "):
        target_of("tensorrt")
    with pytest.raises(ExportError, match=r"ncnn was run with float32 here, got dtype='float16'"):
        form_for("ncnn", "float16")


def test_what_loses_digits_in_the_operator_does_not_get_it():
    """ONNX Runtime's and ExecuTorch's group norms compute E[x^2] - E[x]^2."""
    for to in ("onnxruntime", "executorch", "executorch-portable"):
        assert not any("plain" in forms for forms in TARGETS[to].forms.values())


def test_what_adds_up_one_after_the_other_is_not_for_groups_of_any_size():
    assert forms_for("onnxruntime", "float32") == ("instance", "pooled", "blocked")
    assert forms_for("onnxruntime", "float32", (0,)) == ("instance", "pooled", "blocked")
    assert forms_for("onnxruntime", "float32", (0, 2)) == ("pooled", "blocked")
