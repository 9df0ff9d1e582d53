"""Tables as Markdown and LaTeX: escaped, balanced, the same numbers."""

import re

from groupnorm.study.report.markup import (
    MarkedTable,
    escape_latex,
    escape_markdown,
    latex,
    markdown,
)

TABLE = MarkedTable(
    "error",
    "Top-1 error in %: resnet_8, 50 & 60 ^ {x} ~ #1",
    ["images per worker", "32", "2"],
    [["gn:groups=8 | a_b", "27.6 \u00b1 0.3", "\u2013"], ["bn", "27.0", "same"]],
)


def test_markdown_is_a_table_with_its_caption():
    assert markdown([TABLE, TABLE]).startswith(
        "| images per worker | 32 | 2 |\n"
        "| --- | ---: | ---: |\n"
        "| gn:groups=8 \\| a\\_b | 27.6 \u00b1 0.3 | \u2013 |\n"
        "| bn | 27.0 | same |\n"
        "\n"
        "Top-1 error in %: resnet\\_8, 50 & 60 ^ {x} ~ #1.\n"
        "\n"
        "| images per worker"
    )


def test_what_markdown_would_take_for_a_mark_is_escaped():
    assert escape_markdown("a_b *c* <d> $e$ `f` g|h i\\j") == (
        r"a\_b \*c\* \<d> \$e\$ \`f\` g\|h i\\j"
    )
    assert escape_markdown("gn:groups=8+ws, 27.6 \u00b1 0.3 (1 of 3)") == (
        "gn:groups=8+ws, 27.6 \u00b1 0.3 (1 of 3)"
    )


def test_every_special_letter_of_latex_is_escaped():
    assert escape_latex("_%&#{}$") == r"\_\%\&\#\{\}\$"
    assert escape_latex("~^\\") == r"\textasciitilde{}\textasciicircum{}\textbackslash{}"
    assert escape_latex('1 \u00b1 2 \u2013 <a> "b"') == (
        r"1 $\pm$ 2 -- \textless{}a\textgreater{} \textquotedbl{}b\textquotedbl{}"
    )
    assert escape_latex("GN (ours), \u00e9: 1+2=3") == "GN (ours), \u00e9: 1+2=3"


def test_the_sign_of_a_number_is_a_minus_in_latex():
    assert escape_latex("-7.4, -8.0 to 6.5; CIFAR-10, 2-3, a-b") == (
        r"$-$7.4, $-$8.0 to 6.5; CIFAR-10, 2-3, a-b"
    )


def environments(text):
    """Checks that every environment and brace is closed; the environments in order."""
    found, opened = [], []
    for word, name in re.findall(r"\\(begin|end)\{([\w*]+)\}", text):
        if word == "begin":
            opened.append(name)
            found.append(name)
        else:
            assert opened.pop() == name
    assert opened == []
    bare = re.sub(r"\\[{}]", "", text)
    assert bare.count("{") == bare.count("}")
    assert len(re.findall(r"(?<!\\)\$", text)) % 2 == 0
    return found


def code_of(text):
    """The lines that LaTeX reads."""
    return "\n".join(line for line in text.splitlines() if not line.startswith("%"))


def test_latex_is_balanced_and_has_the_rules_of_booktabs():
    code = code_of(latex([TABLE, TABLE]))
    assert environments(code) == ["table", "tabular"] * 2
    for rule in ("toprule", "midrule", "bottomrule"):
        assert code.count(rf"\{rule}") == 2
    assert "hline" not in code
    assert "|" not in code.replace(r"\textbar{}", "")
    for letter in "%#&_":
        escaped = code.count(f"\\{letter}")
        between_cells = code.count(f" {letter} ") if letter == "&" else 0
        assert code.count(letter) == escaped + between_cells


def test_every_line_of_a_latex_table_has_a_cell_for_each_column():
    code = code_of(latex([TABLE]))
    assert r"\begin{tabular}{lrr}" in code
    lines = [line for line in code.splitlines() if line.endswith(r" \\")]
    assert [len(re.split(r"(?<!\\)&", line)) for line in lines] == [3, 3, 3]
    assert lines[1] == r"    gn:groups=8 \textbar{} a\_b & 27.6 $\pm$ 0.3 & -- \\"


def test_a_latex_table_of_both_columns_spans_the_page():
    assert environments(code_of(latex([TABLE], both_columns=True))) == ["table*", "tabular"]


def test_latex_says_what_it_needs():
    assert latex([]).startswith(r"% Needs \usepackage{booktabs}.")
    assert environments(latex([]).replace("% ", "")) == ["document"]
