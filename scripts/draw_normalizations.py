"""Draw docs/normalizations.png, the figure of docs/normalizations.md."""

from pathlib import Path

from groupnorm.study.figure_style import render_files
from groupnorm.study.sets_figure import sets_figure

FIGURE = Path(__file__).parent.parent / "docs" / "normalizations.png"


def main() -> None:
    """Write the figure."""
    FIGURE.write_bytes(render_files(sets_figure())["png"])
    print(f"written: {FIGURE}")


if __name__ == "__main__":
    main()
