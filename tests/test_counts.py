from groupnorm.counts import counted


def test_counts_are_singular_or_plural():
    assert [counted(n, "cell") for n in (0, 1, 2, 1024)] == [
        "0 cells", "1 cell", "2 cells", "1,024 cells",
    ]  # fmt: skip
