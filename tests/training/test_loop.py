"""The loop on a small task of its own: lengths, schedule, weight decay, resuming, divergence."""

import copy
import math
import time

import pytest
import torch
from torch import nn

from groupnorm.data.batches import epoch_order, epoch_steps, seed_of
from groupnorm.training import loop
from groupnorm.training.checkpoint import CheckpointError
from groupnorm.training.config import RunConfig
from groupnorm.training.distributed import Processes
from groupnorm.training.loop import Diverged
from groupnorm.training.task import Part, whole_steps
from tests.tolerances import LAYER


class Regression:
    """Fit y = 2x; records which examples each step saw."""

    def __init__(self, size=40, poison_at=None):
        self.x = torch.linspace(-1, 1, size).unsqueeze(1)
        self.seen = []
        self.poison_at = poison_at
        self.late = []

    metrics = ()

    @property
    def data(self):
        return self

    @property
    def steps_per_epoch(self):
        return whole_steps(self.config, len(self.x))

    def steps(self, epoch):
        order = epoch_order(len(self.x), self.config.seed, epoch)
        return epoch_steps(order, self.config.step_images, self.config.seed, epoch)

    def split(self, batch, step, progress):
        parts = zip(*(values.chunk(self.config.accumulate) for values in batch), strict=True)
        return [Part(part, len(part[0])) for part in parts]

    def losses(self, model, part):
        return {"loss": self.loss(model, *part.inputs)}, {}

    def training_metrics(self, totals):
        return {}

    def train(self, steps, rows):
        for step in steps:
            indices = step.indices[rows]
            self.seen.append(indices.tolist())
            generator = torch.Generator().manual_seed(step.seed)
            noise = torch.randn(len(step.indices), 1, generator=generator)[rows]
            yield self.x[indices] + 0.01 * noise, indices

    def data_issues(self):
        return {}

    def remember(self, issues):
        pass

    def loss(self, model, x, indices):
        loss = (model(x) - 2 * x).square().mean()
        if self.poison_at == len(self.seen):
            loss = loss * float("nan")
        return loss

    def evaluate(self, model, *, reported):
        self.late.append(reported)
        return {"val_error": (model(self.x) - 2 * self.x).abs().max().item()}


def train(config, model, task, **options):
    """The loop, on a task that knows its configuration."""
    task.config = config
    return loop.train(config, model, task, **options)


def make(**fields):
    defaults = {"workers": 2, "batch_per_worker": 4, "base_lr": 3.2, "norm": "none"}
    if "steps" not in fields:
        defaults["epochs"] = 3
    torch.manual_seed(0)
    return RunConfig(**{**defaults, **fields}), nn.Linear(1, 1)


def test_every_epoch_sees_every_example_once():
    config, model = make()
    task = Regression()
    metrics = train(config, model, task)
    assert len(task.seen) == 15
    for epoch in range(3):
        batches = task.seen[5 * epoch : 5 * epoch + 5]
        assert sorted(i for batch in batches for i in batch) == list(range(40))
    assert task.seen[:5] != task.seen[5:10]
    assert [row["epoch"] for row in metrics] == [1, 2, 3]
    assert [row["step"] for row in metrics] == [5, 10, 15]
    assert metrics[-1]["val_error"] < metrics[0]["val_error"] < 2


def test_the_incomplete_batch_is_dropped():
    config, model = make(epochs=1)
    task = Regression(size=47)
    train(config, model, task)
    assert [len(batch) for batch in task.seen] == [8] * 5


def test_length_in_steps():
    config, model = make(steps=7)
    task = Regression()
    metrics = train(config, model, task)
    assert len(task.seen) == 7
    assert [row["step"] for row in metrics] == [5, 7]


def test_the_schedule_is_applied():
    config, model = make(epochs=10)
    rates = [row["lr"] for row in train(config, model, Regression())]
    assert rates == pytest.approx([0.1] * 3 + [0.01] * 3 + [0.001] * 3 + [0.0001])


def test_the_last_five_epochs_are_announced():
    config, model = make(epochs=7)
    task = Regression()
    train(config, model, task)
    assert task.late == [False, False, True, True, True, True, True]


def test_reported_epochs_are_the_last_ones_and_always_evaluated():
    config, model = make(epochs=7, reported_epochs=2, evaluate_every=3)
    task = Regression()
    rows = train(config, model, task)
    assert [row["epoch"] for row in rows if "val_error" in row] == [3, 6, 7]
    assert task.late == [False, True, True]
    assert all({"train_loss", "lr", "timing"} < row.keys() for row in rows)


def test_weight_decay_covers_every_parameter():
    """With a loss of zero gradient only weight decay moves the parameters."""

    class Still(Regression):
        def loss(self, model, x, indices):
            return sum((p * 0).sum() for p in model.parameters())

    config, _ = make(weight_decay=0.5, epochs=1)
    model = nn.Sequential(nn.Linear(1, 2), nn.LayerNorm(2), nn.Linear(2, 1))
    nn.init.ones_(model[1].bias)
    before = [p.detach().clone() for p in model.parameters()]
    train(config, model, Still())
    for old, new in zip(before, model.parameters(), strict=True):
        assert (new.abs() < old.abs()).all()


def test_stopped_and_resumed_is_bit_for_bit_the_same(tmp_path):
    config, model = make(epochs=6)
    whole = train(config, model, Regression())

    class StopError(Exception):
        pass

    def stop_after_two(metrics):
        if len(metrics) == 2:
            raise StopError

    path = tmp_path / "checkpoint.pt"
    _, first = make(epochs=6)
    with pytest.raises(StopError):
        train(config, first, Regression(), checkpoint=path, on_epoch=stop_after_two)
    _, second = make(epochs=6)
    task = Regression()
    resumed = train(config, second, task, checkpoint=path)
    assert len(task.seen) == 4 * 5
    assert torch.equal(model.weight, second.weight)
    for a, b in zip(whole, resumed, strict=True):
        assert {**a, "timing": 0} == {**b, "timing": 0}


@pytest.mark.parametrize("stop_at", [1, 4, 5, 13])
def test_stopped_within_an_epoch_it_goes_on_bit_for_bit(tmp_path, stop_at):
    """A checkpoint after every step, and an end by an exception that no handler sees."""

    class Dropping(Regression):
        def loss(self, model, x, indices):
            return super().loss(model, nn.functional.dropout(x, 0.3), indices)

    config, model = make(epochs=3)
    whole = train(config, model, Dropping())

    class StopError(Exception):
        pass

    def stop(step, total):
        if step == stop_at + 1:
            raise StopError

    path = tmp_path / "checkpoint.pt"
    _, first = make(epochs=3)
    with pytest.raises(StopError):
        train(config, first, Dropping(), checkpoint=path, save_seconds=0, on_step=stop)
    _, second = make(epochs=3)
    task = Dropping()
    resumed = train(config, second, task, checkpoint=path)
    assert len(task.seen) == 15 - stop_at
    assert torch.equal(model.weight, second.weight)
    for a, b in zip(whole, resumed, strict=True):
        assert b["timing"]["images"] == 40
        assert {**a, "timing": 0} == {**b, "timing": 0}


@pytest.mark.parametrize("schedule", ["step", "cosine"])
def test_stopped_after_an_epoch_it_goes_on_bit_for_bit(tmp_path, schedule):
    """Learning rates are those of the whole training, however often it is stopped."""
    fields = {"epochs": 6, "schedule": schedule, "evaluate_every": 2, "reported_epochs": 1}
    config, model = make(**fields)
    whole = train(config, model, Regression())
    path = tmp_path / "checkpoint.pt"
    for stop, after in ((2, 2), (5, 5), (1, 5), (None, 6), (9, 6)):
        _, resumed = make(**fields)
        rows = train(config, resumed, Regression(), checkpoint=path, stop_epoch=stop)
        assert [{**row, "timing": 0} for row in rows] == [
            {**row, "timing": 0} for row in whole[:after]
        ]
    assert torch.equal(model.weight, resumed.weight)


def test_a_batch_is_split_with_the_progress_of_the_run(tmp_path):
    """Also where a run was resumed, within an epoch and between two."""

    class Watched(Regression):
        def __init__(self, stop_at=None):
            super().__init__()
            self.progress, self.stop_at = [], stop_at

        def split(self, batch, step, progress):
            if self.stop_at == len(self.progress):
                raise KeyboardInterrupt
            self.progress.append(progress)
            return super().split(batch, step, progress)

    config, model = make(epochs=4)
    for stop_at in (3, 5, 18):
        saved = {"checkpoint": tmp_path / f"{stop_at}.pt", "save_seconds": 0}
        with pytest.raises(KeyboardInterrupt):
            train(config, model, Watched(stop_at), **saved)
        rest = Watched()
        train(config, model, rest, **saved)
        assert rest.progress == [step / 20 for step in range(stop_at, 20)]


def test_several_losses_are_summed_and_each_is_logged(tmp_path):
    class Two(Regression):
        def losses(self, model, part):
            x, _ = part.inputs
            far = (model(x) - 2 * x).square().mean()
            return {"far": 0.75 * far, "near": 0.25 * far}, {"seen": part.examples}

        def training_metrics(self, totals):
            return {"train_seen": totals.counts["seen"]}

    config, model = make(epochs=2)
    (first, last) = train(config, model, Regression())
    path = tmp_path / "checkpoint.pt"
    for accumulate in (1, 2):
        config, other = make(epochs=2, accumulate=accumulate)
        rows = train(config, other, Two(), checkpoint=path.with_suffix(f".{accumulate}"))
        assert torch.allclose(model.weight, other.weight, rtol=LAYER)
        for row, expected in zip(rows, (first, last), strict=True):
            assert row["train_loss"] == pytest.approx(expected["train_loss"], rel=LAYER)
            assert list(row["train_losses"]) == ["far", "near"]
            assert row["train_losses"]["near"] == pytest.approx(row["train_loss"] / 4, rel=LAYER)
            assert row["train_seen"] == 40
    assert "train_losses" not in first


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_loop_is_twenty_lines_of_plain_pytorch(accumulate):
    """The same bits: with momentum, decay on weights alone, warm-up, a cosine and clipping."""
    config, ours = make(
        epochs=4, accumulate=accumulate, schedule="cosine", warmup_steps=6, warmup_from=1 / 3,
        decay_norms=False, weight_decay=0.01, clip_norm=0.5, momentum=0.8,
    )  # fmt: skip
    torch.manual_seed(1)
    ours = nn.Sequential(nn.Linear(1, 4), nn.LayerNorm(4), nn.Linear(4, 1))
    plain = copy.deepcopy(ours)
    rows = train(config, ours, Regression())
    task = Regression()
    losses = []

    linear, norm, last = plain
    decayed = {"params": [*linear.parameters(), *last.parameters()], "weight_decay": 0.01}
    groups = [decayed, {"params": list(norm.parameters())}]
    sgd = torch.optim.SGD(groups, lr=0.1, momentum=0.8, nesterov=True)
    for epoch in range(1, 5):
        total = 0.0
        steps = epoch_steps(epoch_order(40, 0, epoch), 8, 0, epoch)
        for number, (x, _) in enumerate(task.train(steps, slice(None)), 5 * (epoch - 1)):
            warm = 1 / 3 + 2 / 3 * number / 6 if number < 6 else 1
            rate = 0.1 * (0.5 * (1 + math.cos(math.pi * number / 20)) * warm)
            for group in sgd.param_groups:
                group["lr"] = rate
            sgd.zero_grad()
            for part in x.chunk(accumulate):
                loss = (plain(part) - 2 * part).square().mean()
                (loss / accumulate).backward()
                total += loss.item() * len(part)
            nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
            sgd.step()
        losses.append(total / 40)

    assert [row["train_loss"] for row in rows] == losses
    for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
        assert torch.equal(a, b)


def test_nothing_is_saved_within_an_epoch_before_its_time(tmp_path):
    path = tmp_path / "checkpoint.pt"
    config, model = make(epochs=2)
    found = []
    train(
        config, model, Regression(), checkpoint=path,
        on_step=lambda step, total: found.append(path.exists()),
    )  # fmt: skip
    assert found == [False] * 5 + [True] * 5


def test_timing_says_where_the_seconds_went():
    class Slow(Regression):
        def train(self, steps, rows):
            for batch in super().train(steps, rows):
                time.sleep(0.02)
                yield batch

        def loss(self, model, x, indices):
            time.sleep(0.03)
            return super().loss(model, x, indices)

        def evaluate(self, model, *, reported):
            time.sleep(0.2)
            return {}

    config, model = make(epochs=1)
    (row,) = train(config, model, Slow())
    timing = row["timing"]
    assert timing["data_seconds"] >= 5 * 0.02
    assert timing["forward_seconds"] >= 5 * 0.03
    assert timing["backward_seconds"] > 0
    parts = sum(timing[f"{part}_seconds"] for part in ("data", "forward", "backward"))
    training = timing["images"] / timing["images_per_second"]
    assert parts <= training <= timing["seconds"] - 0.2


def test_what_the_data_counts_is_in_the_metrics():
    class Damaged(Regression):
        def data_issues(self):
            return {"replaced_images": {"a": "empty", "b": "cut"}, "left_out_images": {}}

    config, model = make(epochs=1)
    assert train(config, model, Damaged())[0]["image_counts"] == {
        "replaced_images": 2,
        "left_out_images": 0,
    }


def test_data_issues_are_counted_alike_after_a_resume(tmp_path):
    class Grey(Regression):
        """Every second example is not RGB; a step in the middle of epoch 2 may be the last."""

        def __init__(self, stop=False):
            super().__init__(size=47)
            self.found = {"replaced_images": {"a": "empty"}, "converted_images": {}}
            self.stop = stop

        def data_issues(self):
            return {kind: dict(files) for kind, files in self.found.items()}

        def remember(self, issues):
            for kind, files in issues.items():
                self.found[kind].update(files)

        def train(self, steps, rows):
            for number, batch in enumerate(super().train(steps, rows)):
                if self.stop and len(self.late) == 1 and number == 2:
                    raise KeyboardInterrupt
                grey = [index for index in batch[1].tolist() if index % 2]
                self.found["converted_images"].update((str(index), "not RGB") for index in grey)
                yield batch

    def counts(task, **options):
        config, model = make(epochs=4)
        rows = train(config, model, task, **options)
        return [row["image_counts"] for row in rows]

    undisturbed = counts(Grey())
    assert [row["replaced_images"] for row in undisturbed] == [1, 1, 1, 1]
    numbers = [row["converted_images"] for row in undisturbed]
    assert numbers[0] < numbers[-1] == 23
    checkpoint = {"checkpoint": tmp_path / "checkpoint.pt", "save_seconds": 0}
    with pytest.raises(KeyboardInterrupt):
        counts(Grey(stop=True), **checkpoint)
    resumed = Grey()
    resumed.found["replaced_images"].clear()
    assert counts(resumed, **checkpoint) == undisturbed


def test_shares_that_do_not_fit_are_refused():
    config, model = make(norm="bn", workers=2)
    with pytest.raises(ValueError, match="2 workers cannot be divided among 4 processes"):
        train(config, model, Regression(), processes=Processes(0, 4))


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    path = tmp_path / "checkpoint.pt"
    config, model = make(epochs=1)
    train(config, model, Regression(), checkpoint=path)
    other, model = make(epochs=2)
    with pytest.raises(CheckpointError, match=f"{config.digest()}.*{other.digest()}"):
        train(other, model, Regression(), checkpoint=path)


def test_nan_stops_the_run_and_keeps_the_epochs_before():
    config, model = make()
    with pytest.raises(Diverged, match="nan at step 8 of 15") as end:
        train(config, model, Regression(poison_at=8))
    assert [row["epoch"] for row in end.value.metrics] == [1]


def test_too_few_examples_raise():
    config, model = make()
    with pytest.raises(ValueError, match="at least 8 training images, the data has 7"):
        train(config, model, Regression(size=7))


def test_dropout_draws_from_a_seed_of_the_step():
    class Drawing(Regression):
        def loss(self, model, x, indices):
            self.draws.append(torch.rand(3))
            return super().loss(model, x, indices)

    config, model = make(epochs=1)
    task = Drawing()
    task.draws = []
    train(config, model, task)
    order = epoch_order(40, config.seed, 1)
    for step, draw in zip(epoch_steps(order, 8, config.seed, 1), task.draws, strict=True):
        torch.manual_seed(seed_of(step.seed, "dropout", 0))
        assert torch.equal(draw, torch.rand(3))


def test_default_generators_are_left_alone():
    config, model = make(epochs=1)
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    train(config, model, Regression())
    assert torch.equal(torch.rand(3), expected)
