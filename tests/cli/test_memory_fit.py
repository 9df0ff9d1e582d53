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


@pytest.mark.slow
def test_a_network_for_video_is_asked_for_clips():
    options = ("i3d_narrow", "--memory", "50MiB", "--norms", "gn:size=8", "--batch", "4")
    found = json.loads(typed("plan", *options, "--json").stdout)
    assert {key: found[key] for key in ("image_size", "frames", "batch", "num_classes")} == {
        "image_size": 16, "frames": 16, "batch": 4, "num_classes": 10,
    }  # fmt: skip
    gn = found["norms"]["gn:size=8"]
    assert gn["most_frames"] > 4 * 16
    assert gn["largest_batch"] > 16
    table = typed("plan", *options).stdout
    assert "step of 4 clips of 16 frames of 16 x 16" in table
    assert f" {gn['most_frames']} " in table
    longer = json.loads(typed("plan", *options, "--frames", "64", "--json").stdout)
    assert longer["frames"] == 64
    assert longer["norms"]["gn:size=8"]["largest_batch"] < gn["largest_batch"] / 3
    assert longer["norms"]["gn:size=8"]["most_frames"] == gn["most_frames"]


def test_bad_input_is_answered_in_words():
    for arguments, words in (
        (("resnet9", "--memory", "1GiB"), "unknown model 'resnet9'"),
        (("retinanet_narrow", "--memory", "1GiB"), "is a detector; plan counts classifiers"),
        (("unet_narrow", "--memory", "1GiB"), "labels pixels; plan counts classifiers"),
        (("resnet8", "--memory", "much"), "as 16GiB, 800MB"),
        (("resnet8", "--memory", "1GiB", "--norms", "xn"), "unknown normalization 'xn'"),
        (("resnet8", "--memory", "1GiB", "--precision", "half"), "got 'half'"),
        (
            ("resnet8", "--memory", "1GiB", "--frames", "8"),
            "resnet8 takes images; --frames is for i3d_resnet50 and i3d_narrow",
        ),
        (("i3d_resnet50", "--memory", "1GiB", "--frames", "6"), "7 frames at least, got 6"),
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
