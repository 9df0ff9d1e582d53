"""Text is read and written in an encoding that is named, whatever the locale is."""

import ast
import json
from pathlib import Path

import pytest

from groupnorm.cli import train
from groupnorm.files import write_atomic
from groupnorm.study.store import Record, read_record
from tests.study.fake_store import write_run

ROOT = Path(__file__).parent.parent
SOURCES = [
    path for part in ("groupnorm", "scripts", "benchmarks") for path in (ROOT / part).rglob("*.py")
]


def unnamed(source):
    """Lines of the calls that read or write text in the locale's encoding."""
    return [
        call.lineno
        for call in ast.walk(ast.parse(source))
        if isinstance(call, ast.Call) and is_text(call) and not names_encoding(call)
    ]


def is_text(call):
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    owner = getattr(getattr(call.func, "value", None), "id", "")
    if name in ("read_text", "write_text"):
        return True
    if name in ("open", "fdopen") and owner not in ("gzip", "tarfile", "Image", "os", "av"):
        return not is_binary(call, 0 if isinstance(call.func, ast.Attribute) else 1)
    if name == "fdopen":
        return not is_binary(call, 1)
    keywords = {keyword.arg for keyword in call.keywords}
    return bool({"text", "universal_newlines"} & keywords) and name in (
        "run",
        "Popen",
        "check_output",
    )


def is_binary(call, position):
    modes = call.args[position : position + 1]
    modes += [keyword.value for keyword in call.keywords if keyword.arg == "mode"]
    return any(isinstance(mode, ast.Constant) and "b" in str(mode.value) for mode in modes)


def names_encoding(call):
    return any(keyword.arg == "encoding" for keyword in call.keywords)


def test_every_place_names_its_encoding():
    found = {
        str(path.relative_to(ROOT)): unnamed(path.read_text(encoding="utf-8")) for path in SOURCES
    }
    assert {path: lines for path, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("p.read_text()", True),
        ("p.write_text(x, encoding='utf-8')", False),
        ("open(p)", True),
        ("open(p, 'rb')", False),
        ("p.open('a')", True),
        ("p.open('rb')", False),
        ("os.fdopen(h, 'wb')", False),
        ("os.fdopen(h, 'w')", True),
        ("gzip.open(p)", False),
        ("subprocess.run(c, text=True)", True),
        ("subprocess.run(c, encoding='utf-8')", False),
    ],
)
def test_the_search_finds_the_places(source, text):
    assert unnamed(source) == ([1] if text else [])


def test_names_that_are_not_utf8_can_be_recorded(tmp_path):
    write_atomic(tmp_path / "file", json.dumps({"reason": "\udcff.jpg"}, ensure_ascii=False))
    assert json.loads((tmp_path / "file").read_text(encoding="utf-8")) == {"reason": "\udcff.jpg"}


def test_a_configuration_with_a_byte_order_mark_is_read(tmp_path):
    (tmp_path / "config.json").write_text('{"norm": "bn"}', encoding="utf-8-sig")
    assert train._read_fields(tmp_path / "config.json", []) == {"norm": "bn"}


def test_a_record_with_a_byte_order_mark_is_read(tmp_path):
    folder = write_run(tmp_path, "run", {"epochs": 1}, [{"epoch": 1}])
    for path in folder.iterdir():
        path.write_text(path.read_text(encoding="utf-8"), encoding="utf-8-sig")
    record: Record = read_record(tmp_path, "run")
    assert (record.status, record.metrics) == ("finished", [{"epoch": 1}])
    assert record.config["model"] == "resnet8"
