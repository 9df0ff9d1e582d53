"""What every command has: help, and errors in words."""

import pytest

from tests.cli.commands import groupnorm


@pytest.mark.parametrize(
    "arguments",
    [[], ["study"], ["study", "batch-size"], ["study", "norms"], ["study", "groups"],
     ["study", "imagenet-vgg16"], ["train"], ["report"], ["doctor"]],
)  # fmt: skip
def test_help(arguments):
    assert "Usage" in groupnorm(*arguments, "--help").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["study", "batch-size", "--norms", "bn,xn"], "unknown normalization 'xn'; known kinds"),
        (["study", "batch-size", "--data", "imagenette"], "unknown data set 'imagenette'"),
        (["study", "batch-size", "--batch-sizes", "32,x"], "whole numbers, as 32,8,2"),
        (["study", "batch-size", "--batch-sizes", "7"], "64 images of a step, 7 does not"),
        (["study", "batch-size", "--protocol", "papr"], "'fixed-step' or 'paper'"),
        (["study", "batch-size", "--scale", "huge"], "'quick', 'standard' or 'paper'"),
        (["study", "batch-size", "--model", "vgg19"], "unknown model 'vgg19'"),
        (["study", "batch-size", "--epochs", "0"], "at least 1, got 0"),
        (
            ["study", "batch-size", "--data", "digits", "--train-images", "5000"],
            "needs more than the 1437 training images of digits",
        ),
        (["study", "batch-size", "--jobs", "0"], "jobs must be at least 1"),
        (["study", "batch-size", "--data", "cifar10", "--data-root", "."], "cifar-10-batches-py"),
        (["study", "norms", "--batch-sizes", "8,2"], "one batch size"),
        (["report", "."], "holds no study"),
        (["train", "norm=gn", "epochs=1", "lr=3"], "lr"),
        (["train", "norm=gn"], "exactly one"),
        (["train", "norm"], "KEY=VALUE, got 'norm'"),
        (["train", "--config", "none.json"], "none.json"),
    ],
)
def test_bad_input_is_answered_in_words(arguments, message, tmp_path):
    done = groupnorm(*arguments, cwd=tmp_path, check=False)
    assert done.returncode == 2, done.stdout
    assert message in done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert not list(tmp_path.rglob("checkpoint.pt"))
