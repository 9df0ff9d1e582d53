"""Plans: changed configurations are checked, and equal runs are one run."""

import pytest

from groupnorm.spec import NormSpec
from groupnorm.study.plan import PlanError, repeat, vary
from groupnorm.training.config import RunConfig

BASE = RunConfig(model="resnet8", data="digits", epochs=2)


def test_a_varied_configuration_is_as_if_written_that_way():
    varied = vary(BASE, norm="bn", batch_per_worker=4)
    assert varied == RunConfig(
        model="resnet8", data="digits", epochs=2, norm="bn", batch_per_worker=4
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": "cifar"}, "unknown data set 'cifar'; known: digits"),
        ({"data": "./cats"}, "is --data imagefolder --data-root ./cats"),
        ({"image_size": 64}, "digits have a size of their own; image_size is"),
        ({"data": "pets", "image_size": 8}, "image_size must be at least 32, got 8"),
        ({"max_unreadable": 1.5}, "max_unreadable must be at most 1, got 1.5"),
        ({"model": "resnet9"}, "unknown model 'resnet9'"),
        ({"norm": "xn"}, "known kinds"),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"epochs": 10**10}, "epochs must be at most 1,000,000,000"),
        ({"train_images": 0}, "train_images must be at least 1"),
    ],
)
def test_changes_that_make_no_run(changes, message):
    with pytest.raises(PlanError, match=message):
        vary(BASE, **changes)


def test_every_cell_is_repeated_and_equal_runs_are_one():
    split = vary(BASE, norm="gn", workers=4, batch_per_worker=16)
    same = vary(BASE, norm="gn", workers=16, batch_per_worker=4)
    cells, configs = repeat([({"n": 16}, split), ({"n": 4}, same)], 2)
    assert [(cell.labels["n"], cell.seed) for cell in cells] == [(16, 0), (16, 1), (4, 0), (4, 1)]
    assert [cell.run for cell in cells] == [*configs, *configs]
    assert [config.seed for config in configs.values()] == [0, 1]


def test_a_norm_that_was_read_is_not_read_again(monkeypatch):
    norm = NormSpec.parse("gn:groups=8")
    monkeypatch.setattr(NormSpec, "parse", lambda text: pytest.fail(f"{text} is read again"))
    assert vary(vary(BASE, norm=norm), seed=3).norm is norm
