"""Fine-tuning: what is trained on what, for how long, and with which loss."""

import copy

import pytest
import torch
import torch.nn.functional as F

from groupnorm.study.conversions import finetuning
from groupnorm.study.conversions.finetuning import fine_tune
from groupnorm.study.conversions.methods import converted
from groupnorm.study.conversions.trial import DISTILLATION, LABELS, Trial
from tests.tolerances import STEP

TRIAL = Trial("copy", "gn:groups=2", 1, 0, 3, LABELS, 1e-2)


@pytest.fixture
def configs(monkeypatch):
    """The configurations that the training loop is called with."""
    found, loop = [], finetuning.train

    def train(config, *arguments):
        found.append(config)
        return loop(config, *arguments)

    monkeypatch.setattr(finetuning, "train", train)
    return found


def tuned(teacher, trial):
    network, _ = converted(teacher, trial)
    before = copy.deepcopy(network.state_dict())
    fine_tune(network, teacher, trial)
    return before, network.state_dict()


def test_the_loop_gets_so_many_steps_of_four_images(teacher, configs):
    before, after = tuned(teacher, TRIAL)
    (config,) = configs
    assert (config.steps, config.epochs, config.step_images) == (3, None, 4)
    assert config.learning_rate == pytest.approx(1e-2)
    assert (config.schedule, config.warmup_steps, config.clip_norm) == ("cosine", 1, 5.0)
    assert config.seed == teacher.config.seed
    assert all(not torch.equal(before[key], after[key]) for key in before)


def test_a_trial_gives_the_same_network_each_time(teacher):
    first, second = (tuned(teacher, TRIAL)[1] for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_distillation_takes_no_labels_and_another_way(teacher, monkeypatch):
    trial = Trial("copy", "gn:groups=2", 1, 0, 3, DISTILLATION, 1e-2)
    by_labels, by_teacher = (tuned(teacher, one)[1] for one in (TRIAL, trial))
    assert not torch.equal(by_labels["linear.weight"], by_teacher["linear.weight"])

    def train(steps, rows=slice(None)):
        for images, labels in whole(steps, rows):
            yield images, torch.zeros_like(labels)

    whole = teacher.data.train
    monkeypatch.setattr(teacher.data, "train", train)
    assert torch.equal(tuned(teacher, trial)[1]["linear.weight"], by_teacher["linear.weight"])


def test_distilling_the_teacher_from_itself_changes_nothing_but_by_decay(teacher):
    """The divergence of a network from itself is 0, and so is its gradient."""
    logits = torch.randn(3, 5, 2, requires_grad=True)
    loss = finetuning._divergence(logits, logits.detach())
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=STEP)
    assert logits.grad.abs().max() < STEP


def test_the_divergence_is_torchs():
    student, teacher = torch.randn(2, 6, 5)
    wanted = F.kl_div(
        F.log_softmax(student / 2, 1), F.softmax(teacher / 2, 1), reduction="batchmean"
    )
    assert finetuning._divergence(student, teacher).item() == pytest.approx(4 * wanted.item())


def test_what_diverges_is_an_error_with_its_step(teacher):
    network, _ = converted(teacher, TRIAL)
    network.linear.bias.data[0] = torch.nan
    with pytest.raises(ValueError, match="diverged: loss nan at step 1 of 3"):
        fine_tune(network, teacher, TRIAL)
