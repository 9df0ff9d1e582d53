"""Faults: changes of one text in one file, that the tests must notice; read from `faults.toml`."""

from __future__ import annotations

import hashlib
import json
import tomllib
from dataclasses import dataclass
from pathlib import Path

FAULTS = Path(__file__).with_name("faults.toml")


class FaultError(Exception):
    """A fault cannot be put in: its text is not in its file, or more than once."""


@dataclass(frozen=True)
class Fault:
    """A change of one text in one file that must not go unnoticed."""

    name: str
    file: str
    old: str
    new: str

    def put_into(self, text: str) -> str:
        """The file's text with the fault.

        Raises:
            FaultError: the text is not there exactly once, or nothing would change.
        """
        count = text.count(self.old)
        if count != 1:
            raise FaultError(f"{self.name}: its text is {count} times in {self.file}, not once")
        if self.old == self.new:
            raise FaultError(f"{self.name}: it changes nothing")
        return text.replace(self.old, self.new)

    def key(self, root: Path) -> str:
        """A digest of the fault and of the file that it is put into."""
        text = json.dumps([self.name, self.file, self.old, self.new])
        return hashlib.sha256(text.encode() + (root / self.file).read_bytes()).hexdigest()[:16]


def read_faults(path: Path) -> list[Fault]:
    """The faults of a file, in its order.

    Raises:
        FaultError: two have the same name.
    """
    faults = [Fault(**fault) for fault in tomllib.loads(path.read_text(encoding="utf-8"))["fault"]]
    names = [fault.name for fault in faults]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise FaultError(f"two faults with one name: {', '.join(twice)}")
    return faults


def check_faults(faults: list[Fault], root: Path) -> list[str]:
    """What is wrong with the faults: texts that are missing or not unique."""
    wrong = []
    for fault in faults:
        try:
            fault.put_into((root / fault.file).read_text(encoding="utf-8"))
        except (FaultError, OSError) as error:
            wrong.append(str(error))
    return wrong
