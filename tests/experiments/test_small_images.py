"""The recipes: complete configurations that train for two steps."""

import pytest

from groupnorm import experiments as recipes
from groupnorm.experiments.small_images import QUICK_IMAGES, STEP_IMAGES
from groupnorm.run import run


def test_quick_is_a_fixed_step_recipe():
    config = recipes.quick()
    assert config.step_images == STEP_IMAGES == 64
    assert config.train_images == QUICK_IMAGES
    assert recipes.standard() == config


@pytest.mark.parametrize("data", ["digits", "imagefolder", "pets", "imagenet", "photo-patches"])
def test_other_data_sets_are_trained_on_as_a_whole(data):
    assert recipes.quick(data=data).train_images is None
    assert recipes.quick(data="cifar100").train_images == QUICK_IMAGES


def test_paper_is_the_papers_recipe():
    config = recipes.paper()
    assert (config.workers, config.batch_per_worker, config.epochs) == (8, 32, 100)
    assert (config.base_lr, config.learning_rate, config.schedule) == (0.1, 0.1, "step")
    assert (config.momentum, config.nesterov, config.weight_decay) == (0.9, True, 1e-4)
    assert config.train_images is None


@pytest.mark.parametrize("recipe", [recipes.quick, recipes.standard, recipes.paper])
def test_two_steps_of_every_recipe(recipe):
    config = recipe(data="digits").model_copy(update={"epochs": None, "steps": 2, "workers": 1})
    result = run(config)
    assert result.status == "finished"
    assert result.metrics[-1]["step"] == 2
    assert 0 < result.metrics[-1]["train_loss"] < 4
