import json

from tests.cli.commands import typed


def test_doctor(tmp_path):
    found = json.loads(typed("doctor", "--json", cwd=tmp_path).stdout)
    assert found["versions"]["torch"]
    assert {b["name"] for b in found["backends"]} >= {"aten", "reference"}
    sets = {entry["name"]: entry for entry in found["data"]}
    assert sets["digits"]["found"]
    assert sets["fashion-mnist-mini"]["found"]
    words = typed("doctor", cwd=tmp_path).stdout
    for name in ("torch", "aten", "fashion-scenes", "cifar10"):
        assert name in words
