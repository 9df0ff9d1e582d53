"""groupnorm plan, as a user types it."""

import json

import pytest

from groupnorm.cost import fit as memory_fit
from tests.cli.commands import typed


@pytest.mark.slow
def test_json_and_table_hold_the_same():
    options = ("resnet8", "--memory", "100MiB", "--norms", "bn,frn", "--batch", "8")
    found = json.loads(typed("plan", *options, "--json").stdout)
    assert found["memory_bytes"] == 100 * 2**20
    assert set(found["norms"]) == {"bn", "frn"}
    bn, frn = found["norms"]["bn"], found["norms"]["frn"]
    assert frn["largest_batch"] < bn["largest_batch"]
    assert frn["saved_per_image"] > 1.4 * bn["saved_per_image"]
    assert bn["peak"] == sum(bn["step"].values()) - bn["step"]["gradients"]
    table = typed("plan", *options)
    assert f" {bn['largest_batch']} " in table.stdout
    assert f" {frn['largest_image_size']} " in table.stdout
    assert "resnet8 with frn" in table.stderr  # progress


def test_bad_input_is_answered_in_words():
    for arguments, words in (
        (("resnet9", "--memory", "1GiB"), "unknown model 'resnet9'"),
        (("resnet8", "--memory", "much"), "as 16GiB, 800MB"),
        (("resnet8", "--memory", "1GiB", "--norms", "xn"), "unknown normalization 'xn'"),
        (("resnet8", "--memory", "1GiB", "--precision", "half"), "got 'half'"),
    ):
        done = typed("plan", *arguments)
        assert done.returncode == 2
        assert words in done.stderr


def test_a_stopped_fit_says_so(monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(memory_fit, "fit", interrupted)
    done = typed("plan", "resnet8", "--memory", "1GB")
    assert done.returncode == 130
    assert done.stderr.endswith("stopped; nothing was written\n")
