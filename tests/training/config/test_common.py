"""What every task's configuration has: where a run starts, warm-up, drops, decay, clipping."""

import pytest
from pydantic import ValidationError

from groupnorm.training.config import RunConfig, TrainingConfig, describe_errors, is_run_name

FIRST = "gn-1x256-s0-52d863f086"


@pytest.mark.parametrize(
    "change",
    [
        {"init": FIRST},
        {"drops": (0.5,)},
        {"warmup_steps": 500},
        {"warmup_from": 1 / 3},
        {"decay_norms": False},
        {"clip_norm": 10.0},
    ],
)
def test_they_count_in_the_name_when_they_are_given(change):
    config = RunConfig(epochs=3, **change)
    assert config.run_name() != RunConfig(epochs=3).run_name()
    assert config.identity().keys() - RunConfig(epochs=3).identity().keys() == change.keys()
    assert RunConfig.model_validate(config.model_dump(), strict=True) == config


def test_the_name_of_a_run_that_starts_from_another_holds_that_runs_digest():
    one, other = (RunConfig(epochs=1, seed=seed) for seed in (0, 1))
    tuned = [RunConfig(epochs=2, init=first.run_name()) for first in (one, other)]
    assert tuned[0].digest() != tuned[1].digest()
    again = RunConfig(epochs=3, init=tuned[0].run_name())
    assert again.identity()["init"] == tuned[0].run_name()


@pytest.mark.parametrize(
    ("text", "yes"),
    [
        (FIRST, True),
        ("bn-ws-2x16-s18446744073709551615-0123456789", True),
        ("runs/" + FIRST, False),
        ("..", False),
        (FIRST[:-1], False),
        (FIRST + "0", False),
        ("", False),
    ],
)
def test_names_of_runs(text, yes):
    assert is_run_name(text) == yes
    assert is_run_name(RunConfig(norm="gn:groups=8,eps=1e-6+ws", epochs=1).run_name())


def test_drops_are_read_from_text_and_numbers():
    """The full fractions of a schedule of 90,000 steps come back from text."""
    config = RunConfig(epochs=1, drops=(60 / 90, 80 / 90))
    assert config.drops == (2 / 3, 8 / 9)
    assert RunConfig(epochs=1, drops=config.model_dump()["drops"]) == config
    assert RunConfig(epochs=1, drops="0.3,0.6,0.9") == RunConfig(epochs=1)
    assert RunConfig(epochs=1, drops="").drops == ()


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"init": "out/run"}, "init: expected the name of a run, as gn-1x256-s0-52d863f086; got"),
        ({"init": 3}, "init must be text, got 3"),
        ({"drops": "0.6,0.3"}, "drops: shares lie between 0 and 1 and rise; got 0.6,0.3"),
        ({"drops": "0,1"}, "drops: shares lie between 0 and 1 and rise; got 0.0,1.0"),
        ({"drops": "a"}, "drops: expected shares of the run, as 0.3,0.6,0.9; got 'a'"),
        ({"warmup_from": 1}, "warmup_from must be less than 1, got 1"),
        ({"clip_norm": 0}, "clip_norm must be greater than 0, got 0"),
        (
            {"warmup_epochs": 1, "warmup_steps": 5},
            "give warmup_epochs or warmup_steps, not both; got 1.0 and 5",
        ),
    ],
)
def test_what_does_not_fit_in_words(fields, told):
    with pytest.raises(ValidationError) as refused:
        RunConfig(epochs=1, **fields)
    assert describe_errors(refused.value, RunConfig).startswith(told)


class PerWorker(TrainingConfig):
    """Of a task whose loss is a worker's own, whatever the norm."""

    always_in_the_name = frozenset({"task", "norm"})
    reference_images = 16

    task: str = "per worker"
    model: str = "any"
    data: str = "any"
    extra: int = 1

    @property
    def whole_workers(self):
        return True


def test_another_task_has_its_own_name_rate_and_split():
    one = PerWorker(epochs=1, workers=4, batch_per_worker=2)
    assert one.identity() == {
        "task": "per worker", "norm": "gn", "epochs": 1, "workers": 4, "batch_per_worker": 2,
    }  # fmt: skip
    assert one.digest() != PerWorker(epochs=1, workers=8, batch_per_worker=1).digest()
    assert one.learning_rate == pytest.approx(0.05)
    assert one.describe_difference(PerWorker(epochs=1, extra=2).identity()) == (
        "workers was 8, is 4, batch_per_worker was 32, is 2, extra was 2, is 1"
    )
    with pytest.raises(ValueError, match="4 workers cannot be divided among 3 processes"):
        one.check_processes(3)
    with pytest.raises(ValidationError, match="accumulate=3 does not divide the 4 workers"):
        PerWorker(epochs=1, workers=4, accumulate=3)
