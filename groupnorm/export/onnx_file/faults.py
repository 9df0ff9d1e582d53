"""What is known to go wrong with each way of writing group norm, where, and who says so.

Numbers are largest errors against float64 on maps of spread 1, measured with the versions named;
what no measurement here stands behind is a public report, and is quoted as one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

OPERATOR = "GroupNormalization"
CONTRIB = "com.microsoft GroupNorm"
INSTANCE = "InstanceNormalization"
SHIFTED = "InstanceNormalization, mean subtracted"
LAYER = "LayerNormalization"
POOLED = "pooled"
TWO_PASS = "two-pass"
SQUARES = "mean(x^2) - mean(x)^2"
"""The forms in which group norm stands in files; the last three are in elementary operators."""

MANY_VALUES = 200_000
"""Of a group: with more of them InstanceNormalization is wrong even around 0."""

OFFSETS = (0.0, 10.0, 100.0, 1e3, 1e4)
"""Means of the inputs that errors are measured at; their spread is 1."""


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong.

    Attributes:
        runtime: where.
        wrong: whether results are wrong or none come; False for digits that are lost in proportion
            to the mean, as PyTorch loses them, too.
        what: in one sentence.
        source: a measurement, or the address of a public report.
    """

    runtime: str
    wrong: bool
    what: str
    source: str


def known_faults(
    form: str, opset: int, groups: int, dtype: str, values: int | None
) -> Iterator[Fault]:
    """The faults of an operator, or of a form that runtimes compute in one.

    Args:
        form: one of the forms above.
        opset: of the file.
        groups: G.
        dtype: of the input, as "float32"; "" when it is not known.
        values: in a group; None when it is not known.
    """
    if form in (INSTANCE, SHIFTED) and values is not None and values > MANY_VALUES:
        yield Fault(
            "ONNX Runtime", True, f"InstanceNormalization adds up the {values:,} values of a group "
            "one after the other: it is off by 5e-6 for 200,000 and by 3e-4 for 3,000,000 of them",
            "measured, ONNX Runtime 1.32",
        )  # fmt: skip
    if form == OPERATOR:
        yield from _of_the_operator(opset, groups, dtype)
    elif form == CONTRIB:
        yield Fault(
            "ONNX Runtime, CPU", True, "it has no kernel for it: the file does not load",
            "measured, ONNX Runtime 1.32",
        )  # fmt: skip
    elif form in (INSTANCE, SHIFTED) and dtype == "float64":
        yield Fault(
            "ONNX Runtime, CPU", True, "InstanceNormalization has no kernel in float64: the file "
            "does not load", "measured, ONNX Runtime 1.32",
        )  # fmt: skip
    elif form == INSTANCE:
        yield Fault(
            "ONNX Runtime", False, "digits go in proportion to the mean: it is off by 7e-5 at mean "
            "100, 6e-4 at 1,000, 5e-3 at 10,000, and by 1.5 on a map of 10,000.33 everywhere",
            "measured, ONNX Runtime 1.32",
        )  # fmt: skip
    elif form == LAYER:
        yield Fault(
            "ONNX Runtime before June 2026", True, "it takes mean(x^2) - mean(x)^2, so that large "
            "means give NaN; 1.32 is right to 7e-4 at mean 10,000",
            "https://github.com/microsoft/onnxruntime/issues/28463 and pull request 28743",
        )  # fmt: skip


def _of_the_operator(opset: int, groups: int, dtype: str) -> Iterator[Fault]:
    if opset >= 21 or dtype != "float64":  # before, float64 is right to 6e-10 at mean 1,000
        yield Fault(
            "ONNX Runtime", True, "it takes mean(x^2) - mean(x)^2: it is off by 3e-2 at mean 100, "
            "by 1 to 10 at 1,000, and gives NaN at 10,000",
            "measured, ONNX Runtime 1.32; https://github.com/microsoft/onnxruntime/issues/24538",
        )  # fmt: skip
    if opset < 21:
        yield Fault(
            "ONNX", False, "opset 18 to 20 has a scale for each group and not for each channel, "
            "which the paper and PyTorch do not have; onnx.checker calls it deprecated",
            "https://github.com/onnx/onnx/issues/5466",
        )  # fmt: skip
    else:
        yield Fault(
            "TensorRT 10.7", True, "it takes the operator of opset 18 and not this one",
            "https://github.com/NVIDIA/TensorRT/issues/4336",
        )  # fmt: skip
        yield Fault(
            "MNN 3.6", True, "its converter does not know the operator", "measured, MNN 3.6.1",
        )  # fmt: skip
    if groups == 1:
        yield Fault(
            "TensorRT 10.16", True, "one group is computed as one group for each channel",
            "https://github.com/NVIDIA/TensorRT/issues/4756",
        )  # fmt: skip


def formula_fault(form: str, errors: tuple[float, ...]) -> Fault:
    """The fault of a formula that is off even if every operator is rounded once.

    Args:
        form: one of the forms above.
        errors: largest ones at the means `OFFSETS`.
    """
    numbers = ", ".join(
        f"{'NaN' if error != error else f'{error:.0e}'} at mean {offset:,.0f}"
        for offset, error in zip(OFFSETS, errors, strict=True)
    )
    why = "digits cancel in mean(x^2) - mean(x)^2" if form == SQUARES else "rounding between steps"
    return Fault(
        "every runtime", True, f"{why}: computed as written it is off by {numbers}",
        "computed here, every operator rounded once to its type",
    )  # fmt: skip
