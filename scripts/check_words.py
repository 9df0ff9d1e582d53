"""Find the words of scripts/banned_words.txt in package, documents and tests.

    python scripts/check_words.py [PATH ...]

A word is found where it stands alone, a phrase also across the end of a line. Each place is printed
with what to write instead; the status is 1 if there is any.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
WORDS = ROOT / "scripts" / "banned_words.txt"
SEARCHED = [
    "groupnorm", "tests", "docs", "benchmarks", "scripts", "examples", ".ci",
    "README.md", "CONTRIBUTING.md", "HACKING.md", "pyproject.toml",
]  # fmt: skip
SUFFIXES = {"", ".cpp", ".h", ".j2", ".json", ".md", ".py", ".sh", ".toml", ".txt"}


def banned(text: str) -> list[tuple[re.Pattern[str], str, str]]:
    """Pattern, word and remedy of each line of the list."""
    entries = []
    for line in text.splitlines():
        if line and not line.startswith("#"):
            word, remedy = line.split(" -> ")
            inner = r"\s+".join(map(re.escape, word.split()))
            flags = re.IGNORECASE if word.islower() else re.NOFLAG
            entries.append((re.compile(rf"\b{inner}\b", flags), word, remedy))
    return entries


def files(paths: Iterable[Path]) -> Iterator[Path]:
    """The text files among and below the paths, without the list itself."""
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and file.suffix in SUFFIXES and file != WORDS:
                yield file


def offences(paths: Iterable[Path]) -> Iterator[str]:
    """A line for each place: file, line number, word, what to write instead."""
    entries = banned(WORDS.read_text(encoding="utf-8"))
    for file in files(paths):
        text = file.read_text(encoding="utf-8")
        for pattern, word, remedy in entries:
            for match in pattern.finditer(text):
                line = text.count("\n", 0, match.start()) + 1
                where = file.relative_to(ROOT) if file.is_relative_to(ROOT) else file
                yield f"{where}:{line}: {word!r} (write: {remedy})"


def main() -> None:
    """Check the paths named, or all that the project writes."""
    named = [Path(path) for path in sys.argv[1:]]
    found = list(offences(named or [ROOT / name for name in SEARCHED if (ROOT / name).exists()]))
    print(*found, sep="\n", end="\n" if found else "")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
