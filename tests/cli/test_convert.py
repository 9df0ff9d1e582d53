"""groupnorm convert: a network of the user's own, a checkpoint and a folder of photographs."""

import errno
import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
import torchvision
import typer
from PIL import Image

from groupnorm.cli import app
from groupnorm.conversion import ConversionReport, convert
from groupnorm.conversion.calibration.fit import FitLimits
from groupnorm.run.conversion.network import current_folder_importable
from groupnorm.study.report import conversion_page
from tests.cli.commands import command, groupnorm, typed
from tests.conversion.networks import train_statistics
from tests.data.files.image_trees import BROKEN, class_folders, write

NETWORK = """
from torch import nn

def net(classes=2, features=False):
    layers = [
        nn.Conv2d(3, 8, 3, 2, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
    ]
    if not features:
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes)]
    return nn.Sequential(*layers)

class Two(nn.Sequential):
    def forward(self, x, y):
        return super().forward(x + y)

def two():
    return Two(*net())

def compiled():
    wrapper = nn.Module()  # as torch.compile makes it
    wrapper._orig_mod = net()
    return wrapper

class Contrast(nn.Sequential):
    def forward(self, x):
        return super().forward(x / x.std((1, 2, 3), keepdim=True))

def contrast():
    return Contrast(*net())

class Logarithm(nn.Sequential):
    def forward(self, x):
        return super().forward(x).mul(0).log()

def logarithm():
    return Logarithm(*net())

def plain():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
"""
FILES = ["converted.pt", "layers.pdf", "layers.png", "layers.svg", "report.json", "report.md"]
USUAL = ["tiny.pt", "--network", "tiny_nets:net", "--images", "photos", "--size", "12"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a module, a checkpoint that `module.` is before its keys, and photographs."""
    folder = tmp_path_factory.mktemp("conversion")
    (folder / "tiny_nets.py").write_text(NETWORK)
    namespace = {}
    exec(NETWORK, namespace)
    torch.manual_seed(0)
    for features in (False, True):
        state = train_statistics(namespace["net"](features=features)).state_dict()
        state = {f"module.{key}": value for key, value in state.items()}
        torch.save({"state_dict": state}, folder / f"{'features' if features else 'tiny'}.pt")
    torch.save(namespace["plain"]().state_dict(), folder / "plain.pt")
    class_folders(folder / "photos", images=8)
    return folder


@pytest.fixture
def there(made, tmp_path, monkeypatch):
    """A copy of that folder, the current one."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "tiny_nets", raising=False)
    return tmp_path


@pytest.fixture
def place(there, monkeypatch):
    """That folder, where nothing is searched for and nothing is drawn, with one thread: threads
    that wait for one another take more time than networks this small do.
    """
    torch.set_num_threads(1)
    quick = functools.partial(convert, limits=FitLimits(steps=0, signs=False))
    monkeypatch.setattr("groupnorm.conversion.convert", quick)
    drawn = {kind: kind.encode() for kind in ("svg", "pdf", "png")}
    monkeypatch.setattr(conversion_page, "render_files", lambda _: drawn)
    return there


def converted(*more):
    done = typed("convert", *USUAL, *more)
    assert done.returncode == 0, done.stderr
    return done


def code_in(text):
    lines = text.partition("To load it:\n")[2].splitlines()
    return "\n".join(line.removeprefix("    ") for line in lines)


def test_a_network_is_converted_compared_and_written(place):
    said = converted().stdout
    assert sorted(os.listdir("tiny-gn")) == FILES
    first, *_ = said.splitlines()
    assert first == "network: net of tiny_nets"
    assert "tiny.pt: the prefix 'module.' of all keys is taken off" in said
    assert "images: 13 to calibrate on, 3 held out, 12 x 12 pixels, mean 0.485, 0.456" in said
    assert "there are 16 different images, not 256 to calibrate on and 64 others to " in said
    assert "2 layers to gn; calibration output error" in said
    for what in (
        "same largest of 2 outputs (N, 2)",
        "held-out output error",
        "largest difference",
        "time per image",
        "parameters",
    ):
        assert what in said
    assert "accuracy" not in said
    assert "Measured on 3 images that had no part in the conversion: those held out." in said
    assert said.count("output error is ") == 2  # each explained once
    report = ConversionReport.load("tiny-gn/report.json")
    assert [layer.name for layer in report.layers] == ["1", "4"]
    page = (place / "tiny-gn" / "report.md").read_text()
    assert "![Error and offset share of each layer](layers.svg)" in page
    assert str(report) in page
    assert "same largest of 2 outputs (N, 2) | 100.0 %" in page
    assert "only 3 images are held out: each changes a percentage by 33 points" in page
    state = torch.load("tiny-gn/converted.pt")
    assert not [key for key in state if "running" in key]
    names = {}
    with current_folder_importable():
        exec(code_in(said), names)
    assert all(torch.equal(state[key], value) for key, value in names["model"].state_dict().items())


def test_json_has_the_comparison_and_the_report(place):
    write(place / "photos" / "cat" / "2.jpg", BROKEN)
    done = converted("--labels", "--json", "--out", "out/deep", "--option", "classes=2")
    found = json.loads(done.stdout)
    assert found["folder"] == "out/deep"
    assert found["unreadable"] == {"photos/cat/2.jpg": "OSError: Truncated File Read"}
    assert "note: left out: 1 image that cannot be decoded: photos/cat/2.jpg (OSErr" in done.stderr
    comparison = found["comparison"]
    assert comparison["images"] == 3
    assert found["notes"][0].startswith("left out: 1 image that cannot be decoded")
    assert min(comparison["agreement"], *comparison["accuracy"]) >= 0
    assert comparison["output_error"] >= 0
    assert comparison["buffers"] == [34, 0]
    assert ConversionReport.from_dict(found["report"]).to == "gn"
    assert sorted(os.listdir("out/deep")) == FILES


def test_the_same_command_gives_the_same_weights(place):
    states = []
    for name in ("a", "b"):
        converted("--out", name, "--to", "gn:groups=2", "--seed", "3", "--only", "4")
        states.append(torch.load(f"{name}/converted.pt"))
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    assert "1.running_mean" in states[0]
    assert "4.running_mean" not in states[0]


def test_maps_are_compared_position_by_position(place):
    done = typed("convert", "features.pt", *USUAL[1:], "--option", "features=True")
    assert "same largest of 8 channels at each position (N, 8, " in done.stdout
    assert "the largest is the class there, where the network gives a class at" in done.stdout
    assert "held-out output error" in done.stdout


def test_a_dry_run_writes_nothing_and_needs_no_images(place):
    before = sorted(os.listdir())
    done = typed("convert", *USUAL[:3], "--size", "12", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "BatchNorm2d  GroupNorm  8 " in done.stdout
    assert done.stdout.splitlines()[-1].startswith("nothing was written; groups are those without")
    found = json.loads(typed("convert", *USUAL[:3], "--dry-run", "--json").stdout)
    assert len(found["layers"]) == 2
    assert sorted(os.listdir()) == before


def test_a_result_is_not_overwritten_without_leave(place):
    converted()
    before = (place / "tiny-gn" / "converted.pt").read_bytes()
    (place / "tiny-gn" / "notes.txt").write_text("mine")
    done = typed("convert", *USUAL, "--to", "ln", "--out", "tiny-gn")
    assert done.returncode == 2
    assert "tiny-gn holds report.json, report.md, layers.svg, " in done.stderr
    assert (place / "tiny-gn" / "converted.pt").read_bytes() == before
    converted("--to", "gn:groups=2", "--out", "tiny-gn", "--overwrite")
    assert (place / "tiny-gn" / "converted.pt").read_bytes() != before
    assert sorted(os.listdir("tiny-gn")) == sorted([*FILES, "notes.txt"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tiny.pt": "none.pt"}, "there is no file 'none.pt'; expected the network's weights"),
        ({"tiny.pt": "photos"}, "there is no file 'photos'"),
        ({"tiny.pt": "tiny_nets.py"}, "tiny_nets.py cannot be read as weights"),
        ({"tiny.pt": "features.pt"}, "does not fit the model. Keys missing: 8.bias, 8.weight"),
        ({"tiny_nets:net": "tiny_nets:nett"}, "tiny_nets has no nett (did you mean net?)"),
        ({"tiny.pt": "plain.pt", "tiny_nets:net": "tiny_nets:plain"}, "0 layers converted"),
        ({"photos": "nothing"}, "--images takes a folder, nothing does not exist"),
        ({"photos": "photos/cat", "12": ["12", "--labels"]}, "photos/cat has no class folders"),
        ({"12": "0"}, "expected images of 1 to 4,096 pixels a side, got a size of 0"),
        ({"12": "100000"}, "expected images of 1 to 4,096 pixels a side, got a size of 100,000"),
        ({"12": ["100000", "--dry-run"]}, "expected images of 1 to 4,096 pixels a side"),
        (
            {"12": ["12", "--mean", "123.7,116.3,103.5"]},
            "expected a mean from 0 to 1, as of pixels in that range, got 123.7, 116.3, 103.5 (of "
            "pixels from 0 to 255? Here it is 0.485, 0.456, 0.406)",
        ),
        ({"12": ["12", "--std", "58.4,57.1,57.4"]}, "Here it is 0.229, 0.224, 0.225)"),
        ({"12": ["12", "--offset-limit", "-1"]}, "--offset-limit: offset_limit must be a finite"),
        ({"12": "x"}, "it takes a whole number, got 'x'"),
        ({"12": ["12", "--mean", "0.5"]}, "it takes three numbers, as 0.5,0.5,0.5, got 0.5"),
        ({"12": ["12", "--std", "0,1,1"]}, "expected a std above 0"),
        ({"12": ["12", "--option", "classes"]}, "expected KEY=VALUE, got 'classes'"),
        ({"12": ["12", "--option", "classes=3"]}, "of another shape: 8.bias (2,) instead of (3,)"),
        ({"12": ["12", "--option", "width=3"]}, "unexpected keyword argument 'width'"),
        ({"12": ["12", "--to", "gn:size=x"]}, "size"),
        ({"12": ["12", "--to", "frn"]}, "--to must be gn, with groups or size if wanted, or ln"),
        ({"12": ["12", "--to", "in"]}, "got 'in': others have no groups"),
        ({"12": ["12", "--hybrid", "2"]}, "--hybrid must be a number from 0 to 1, got 2"),
        ({"12": ["12", "--finetune-steps", "-1"]}, "--finetune-steps"),
        ({"12": ["12", "--seed", "-1"]}, "--seed"),
        ({"photos": "nothing", "12": ["12", "--hybrid", "nan"]}, "--hybrid"),
        ({"12": ["12", "--only", "9"]}, "9"),
        ({"12": ["12", "--hybrid", "0.5", "--plain"]}, "--plain has no --hybrid below 1"),
        ({"12": ["12", "--device", "tpu"]}, "unknown device 'tpu'"),
        ({"12": ["12", "--held-out", "1"]}, "at least 10 images to calibrate on and 2 held out"),
        ({"12": ["12", "--count", "1"]}, "10 images to calibrate on and 2 held out, got 1 and 64"),
        ({"12": ["12", "--out", "tiny.pt"]}, "--out takes a folder, tiny.pt is a file"),
        ({"12": ["12", "--out", "tiny.pt/deep/er"]}, "tiny.pt is a file; name another"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_sentence(place, change, words):
    line = []
    for argument in USUAL:
        given = change.get(argument, argument)
        line += given if isinstance(given, list) else [given]
    done = typed("convert", *line)
    assert done.returncode == 2, done.stdout
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not (place / "tiny-gn").exists()


def test_a_folder_that_cannot_be_written_to_is_found_at_once(place, monkeypatch):
    def refused(*, dir, prefix):
        raise OSError(errno.EROFS, "Read-only file system", str(dir))

    monkeypatch.setattr("tempfile.mkdtemp", refused)
    (place / "out").mkdir()
    done = typed("convert", *USUAL, "--out", "out/deep")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        "error: out cannot be written to (Read-only file system); name another folder with --out\n"
    )


def test_names_that_something_else_has_are_found_at_once(place):
    (place / "tiny-gn").write_text("mine")
    done = typed("convert", *USUAL)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--out takes a folder, tiny-gn is a file" in done.stderr
    (place / "out" / "report.md").mkdir(parents=True)
    done = typed("convert", *USUAL, "--out", "out", "--overwrite")
    assert (done.returncode, done.stdout) == (2, "")
    assert "out/report.md is a folder; name another folder with --out" in done.stderr


def test_a_checkpoint_that_was_converted_already_is_said_to_be_one(place):
    converted()
    done = typed("convert", "tiny-gn/converted.pt", *USUAL[1:])
    assert done.returncode == 2
    assert "tiny-gn/converted.pt has no batch statistics for 2 norms of the network" in done.stderr
    assert "with its report, tiny-gn/report.json: rebuild(" in done.stderr
    (place / "tiny-gn" / "report.json").unlink()
    done = typed("convert", "tiny-gn/converted.pt", *USUAL[1:])
    assert "tiny-gn/report.json (missing): rebuild(" in done.stderr


def test_without_offsets_there_are_no_offset_shares(place):
    converted("--offset-limit", "0", "--to", "gn:groups=2")
    report = ConversionReport.load("tiny-gn-groups-2/report.json")
    assert {layer.offset_share for layer in report.layers} == {0.0}
    (help_of,) = (
        one.help for one in typer.main.get_command(app).commands["convert"].params
        if one.name == "offset_limit"
    )  # fmt: skip
    assert f"{FitLimits().offset_limit:g} by default" in help_of


def test_copies_of_an_image_count_once(place):
    first = place / "photos" / "cat" / "0.jpg"
    for number in range(4):
        shutil.copy(first, place / "photos" / "dog" / f"copy{number}.jpg")
    done = converted()
    words = "left out: 4 images with the pixels of others: copy0.jpg, copy1.jpg, copy2.jpg and 1 "
    assert words in done.stdout
    assert words in done.stderr
    assert words in (place / "tiny-gn" / "report.md").read_text()
    for path in (place / "photos").rglob("*.jpg"):
        if path != first:
            shutil.copy(first, path)
    done = typed("convert", *USUAL, "--out", "other")
    assert done.returncode == 2
    assert "photos has 1 different image that can be decoded; expected 12 at least" in done.stderr
    assert "left out: 19 images with the pixels of others" in done.stderr


def test_the_layer_and_the_file_of_a_value_that_is_not_finite_are_named(place):
    write(place / "photos" / "cat" / "3.jpg", Image.new("RGB", (20, 20)))
    grey = ["--mean", "0.5,0.5,0.5", "--std", "0.5,0.5,0.5"]
    done = typed("convert", "tiny.pt", "--network", "tiny_nets:contrast", *USUAL[3:], *grey)
    assert done.returncode == 2
    assert "the input of 0 (Conv2d) in the network has values that are infinite" in done.stderr
    assert "; that is photos/cat/3.jpg\n" in done.stderr
    assert not (place / "tiny-gn").exists()


def test_an_output_that_is_not_finite_is_found_before_the_conversion(place, monkeypatch):
    def refused(*_, **__):
        raise AssertionError

    monkeypatch.setattr("groupnorm.conversion.convert", refused)
    done = typed("convert", "tiny.pt", "--network", "tiny_nets:logarithm", *USUAL[3:])
    assert done.returncode == 2
    assert "the output of the network has values that are infinite or NaN, first for" in done.stderr
    assert "; that is photos/" in done.stderr


def test_classes_that_the_network_has_not(place):
    write(place / "photos" / "emu" / "1.jpg", (place / "photos/cat/1.jpg").read_bytes())
    done = typed("convert", *USUAL, "--labels")
    assert done.returncode == 2
    assert "the folder has 3 classes (cat, dog, emu); expected the output (2, 3)" in done.stderr


@pytest.mark.parametrize(
    ("network", "words"),
    [
        ("two", "missing 1 required positional argument: 'y'. Where it takes anything but colour"),
        ("compiled", "tiny_nets:compiled: the network is compiled by torch.compile: give the netw"),
    ],
)
def test_a_network_that_cannot_be_used_as_it_is_says_what_to_do(place, network, words):
    done = typed("convert", "tiny.pt", "--network", f"tiny_nets:{network}", *USUAL[3:])
    assert done.returncode == 2
    assert words in done.stderr


def test_without_images_there_is_a_sentence(place):
    done = typed("convert", *USUAL[:3])
    assert done.returncode == 2
    assert "--images is needed: a folder of images" in done.stderr


def test_all_held_out_images_broken(place):
    for path in (place / "photos").rglob("*.jpg"):
        path.write_bytes(BROKEN)
    done = typed("convert", *USUAL)
    assert done.returncode == 2
    assert "none of 16 images can be decoded" in done.stderr


def test_an_interrupt_is_one_line_and_nothing_is_written(place, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("groupnorm.conversion.convert", interrupted)
    before = sorted(os.listdir())
    done = typed("convert", *USUAL)
    assert done.returncode == 130
    assert done.stderr.splitlines()[3:] == ["stopped; nothing was written"]
    assert sorted(os.listdir()) == before


def test_an_interrupt_at_the_end_says_where_the_result_is(place, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("groupnorm.cli.convert._print_result", interrupted)
    done = typed("convert", *USUAL)
    assert done.returncode == 130
    assert done.stderr.endswith("stopped; the result is in tiny-gn\n")


def test_too_little_memory_of_a_gpu_is_a_sentence(place, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("groupnorm.conversion.convert", full)
    done = typed("convert", *USUAL)
    assert done.returncode == 2
    assert "the GPU has too little memory; take fewer images (--count)" in done.stderr


def test_the_page_names_options_that_there_are():
    page = (Path(__file__).parents[2] / "docs" / "conversion.md").read_text()
    section = page.partition("## From the command line")[2].partition("\n## ")[0]
    named = set(re.findall(r"`?(--[a-z-]+)", section))
    options = typer.main.get_command(app).commands["convert"].params
    assert named <= {name for option in options for name in option.opts}
    assert len(named) > 10


@pytest.mark.slow
def test_the_installed_command_with_torchvisions_and_timms_networks(there):
    """In processes of their own; the second is interrupted while it converts."""
    torch.manual_seed(0)
    model = train_statistics(torchvision.models.resnet18(num_classes=3))
    torch.save(model.state_dict(), "r18.pt")
    usual = ["--images", "photos", "--size", "32", "--option", "num_classes=3"]
    said = groupnorm("convert", "r18.pt", "--network", "torchvision/resnet18", *usual).stdout
    with Image.open("r18-gn/layers.png") as figure:
        assert min(figure.size) > 1000
    lines = f"{code_in(said)}\nprint(model(torch.zeros(1, 3, 32, 32)).shape)"
    done = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True)
    assert done.stdout == "torch.Size([1, 3])\n", done.stderr
    model = train_statistics(timm.create_model("resnet18", num_classes=3))
    torch.save({"model": model.state_dict()}, "t18.pt")
    line = [command(), "convert", "t18.pt", "--network", "timm/resnet18", *usual]
    with subprocess.Popen(
        line,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.SIG_DFL
        ),  # a background job ignores it
    ) as child:
        while "norm 2 of" not in child.stderr.readline():
            assert child.poll() is None
        child.send_signal(signal.SIGINT)
        _, said = child.communicate()
    assert child.returncode == 130
    assert said.endswith("stopped; nothing was written\n")
    assert "Traceback" not in said
    assert not os.path.exists("t18-gn")
