"""A user's text on a terminal, and as a shell takes it again."""

import io
import os
import subprocess

import pytest
from rich.console import Console

from groupnorm.printable import print_line, printable, shell_command

ODD = [
    "a b",
    "it's",
    "a\x1b[31m'\\",
    "x\ny\tz",
    "\x85\x9b",
    "é—",
    "\udcff\udc80",
    "\u202e",
    "",
    ":1234",
]


@pytest.mark.parametrize(
    ("text", "encoding", "shown"),
    [
        ("nohost:1234 [b]", "utf-8", "nohost:1234 [b]"),
        ("a\x1b[31m\x07\x7f", "utf-8", r"a\x1b[31m\x07\x7f"),
        ("one\ntwo\r\tthree", "utf-8", "one\ntwo\\r\\tthree"),
        ("\x85\x9b\u202e\u2028", "utf-8", r"\x85\x9b\u202e\u2028"),
        ("\udcff", "utf-8", r"\xff"),
        ("é — 1.0 ± 0.1", "utf-8", "é — 1.0 ± 0.1"),
        ("é — 1.0 ± 0.1", "ascii", r"\xe9 - 1.0 +/- 0.1"),
        ("é — 1.0 ± 0.1", "latin-1", "é - 1.0 ± 0.1"),
    ],
)
def test_what_a_terminal_gets(text, encoding, shown):
    assert printable(text, encoding) == shown
    shown.encode(encoding)


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_shell_takes_the_command_again(encoding):
    written = shell_command(["printf", r"%s\0", *ODD], encoding)
    assert printable(written, encoding) == written
    assert "\n" not in written
    typed = subprocess.run(["bash", "-c", written.encode()], capture_output=True, check=True)
    assert typed.stdout.split(b"\0")[:-1] == [os.fsencode(text) for text in ODD]


def test_a_line_is_plain_and_whole_on_any_console():
    buffer = io.BytesIO()
    console = Console(file=io.TextIOWrapper(buffer, encoding="ascii"), width=20)
    print_line(console, "note: 40.1 ± 0.2 in [b]dög[/b]:smile: of nohost:1234\x1b[31m")
    console.file.flush()
    said = b"note: 40.1 +/- 0.2 in [b]d\\xf6g[/b]:smile: of nohost:1234\\x1b[31m\n"
    assert buffer.getvalue() == said
