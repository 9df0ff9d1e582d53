import json

from tests.cli.commands import groupnorm


def test_train_prints_epochs_as_json_and_continues(tmp_path):
    settings = ["data=digits", "norm=gn:groups=4", "model=resnet8", "width=0.25"]
    settings += ["workers=2", "batch_per_worker=16", "epochs=2"]
    done = groupnorm("train", *settings, "--json", "--out", tmp_path / "run")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2]
    assert (tmp_path / "run" / "DONE").exists()
    done = groupnorm("train", *settings[:-1], "epochs=3", "--out", tmp_path / "run", check=False)
    assert done.returncode == 2
    assert "holds another run" in done.stderr
