"""A user's text as a terminal may get it: no control characters, nothing it cannot show."""

from __future__ import annotations

import os
import shlex
import unicodedata
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

# What tables and reports hold outside ASCII, for terminals that have nothing else.
_SPELLED = {
    "\u00b1": "+/-",
    "\u00d7": "x",
    "\u2014": "-",
    "\u2013": "-",
    "\u2212": "-",
    "\u2026": "...",
}
# Unicode's categories of control characters, of invisible ones (such as those that turn the
# direction), of halves of a pair, and of line and paragraph separators.
_STEERING = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def printable(text: str, encoding: str = "utf-8") -> str:
    """`text` without anything that steers a terminal or that `encoding` lacks.

    Control characters, and bytes of file names that are not UTF-8, become escapes such as \\x1b;
    line breaks stay. What `encoding` lacks is spelled in ASCII where it can be, else escaped.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        char if char == "\n" or _can_be_shown(char, encoding) else _escaped(char) for char in text
    )


def print_line(console: Console, text: str) -> None:
    """Print a plain text as one line however long: no markup, no emoji, as `printable`."""
    console.print(
        printable(text, console.encoding),
        highlight=False,
        markup=False,
        soft_wrap=True,
        emoji=False,
    )


def shell_command(arguments: Iterable[str], encoding: str = "utf-8") -> str:
    """The command line that gives a shell these arguments, printable in `encoding`.

    An argument that cannot be printed stands in the shell's $'...' form, byte by byte.
    """
    return " ".join(_quoted(argument, encoding) for argument in arguments)


def _can_be_shown(char: str, encoding: str) -> bool:
    if unicodedata.category(char) in _STEERING:
        return False
    try:
        char.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def _escaped(char: str) -> str:
    if char in _SPELLED:
        return _SPELLED[char]
    if "\udc80" <= char <= "\udcff":  # a byte of a file name that is not UTF-8
        return f"\\x{ord(char) - 0xDC00:02x}"
    return ascii(char)[1:-1]


def _quoted(argument: str, encoding: str) -> str:
    if all(_can_be_shown(char, encoding) for char in argument):
        return shlex.quote(argument)
    pieces = []
    for char in argument:
        if char in "\\'":
            pieces.append(f"\\{char}")
        elif _can_be_shown(char, encoding):
            pieces.append(char)
        else:
            pieces.append("".join(f"\\x{byte:02x}" for byte in os.fsencode(char)))
    return f"$'{''.join(pieces)}'"
