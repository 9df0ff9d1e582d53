"""The public names, pinned."""

import importlib
from pathlib import Path

import pytest

import groupnorm

PUBLIC = {
    "groupnorm": {"GroupNorm", "GroupNormAct", "NormSpec", "explain", "group_norm", "norm_layer"},
    "groupnorm.layers": {
        "WS_FORMS",
        "BatchNorm",
        "BatchRenorm",
        "EvoNormS0",
        "FilterResponseNorm",
        "FrozenBatchNorm",
        "GroupNorm",
        "GroupNormAct",
        "LayerNorm2d",
        "NormLayer",
        "ScaledWSConv2d",
        "SyncBatchNorm",
        "WSConv1d",
        "WSConv2d",
        "WSConv3d",
        "WSConvTranspose1d",
        "WSConvTranspose2d",
        "WSConvTranspose3d",
        "WeightStandardization",
        "activation_gain",
        "conv_layer",
        "norm_and_activation",
        "norm_layer",
        "norm_modules",
        "normalize_over_sets",
        "recomputed_statistics",
        "renorm_limits",
        "standardize",
        "standardize_convolutions",
        "statistics_blocks",
        "statistics_set",
    },
    "groupnorm.cost": {"bytes_saved", "count_flops", "measure_cost"},
    "groupnorm.models": {
        "ResNetCifar", "build_model", "channel_widths", "check_model", "count_parameters",
        "imagenet_resnet", "load_published", "usual_images", "vgg16", "watched_convolution",
    },
    "groupnorm.recipes": {"EXPERIMENTS", "Experiment", "Variant", "paper", "quick", "standard"},
    "groupnorm.study": {
        "STUDIES", "Cluster", "ExperimentOptions", "Plan", "PlanError", "StudyOptions",
        "StudyOutcome", "experiment_plan", "run_study",
    },
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names(name):
    module = importlib.import_module(name)
    assert set(module.__all__) == PUBLIC[name]
    for public in module.__all__:
        assert getattr(module, public).__doc__


def test_unknown_names_raise():
    with pytest.raises(AttributeError, match="no attribute 'BatchNorm'"):
        _ = groupnorm.BatchNorm


def test_dir_lists_the_public_names():
    assert PUBLIC["groupnorm"] <= set(dir(groupnorm))


def test_every_source_file_has_a_test_file():
    root = Path(groupnorm.__file__).parent
    tests = Path(__file__).parent
    without = []
    for path in root.rglob("*.py"):
        inside = path.relative_to(root)
        if path.name == "__init__.py":
            continue
        if not (tests / inside.parent / f"test_{path.name}").exists():
            without.append(str(inside))
    assert sorted(without) == sorted(COVERED_ELSEWHERE)


COVERED_ELSEWHERE = {
    "data/issues.py",  # study/test_unreadable.py
    "data/class_folders.py",  # data/test_image_folder.py
    "ops/arguments.py",  # ops/test_group_norm.py and ops/test_tensor_states.py
    "ops/expanded_weights.py",  # ops/test_tensor_states.py, as the next one
    "ops/memory.py",
    "ops/dense.py",  # ops/test_group_norm.py, in every layout, as the next two with every kernel
    "ops/kernel_autograd.py",
    "ops/kernel_gradients.py",
    "ops/triton_activations.py",  # ops/test_backend_triton.py, as the next three
    "ops/triton_backward.py",
    "ops/triton_forward.py",
    "ops/triton_launch.py",
    "__main__.py",  # cli/test_train_processes.py starts it
    "layers/per_channel.py",  # the layers that use it
    "recipes/cifar.py",  # recipes/test_experiments.py, as the next three
    "recipes/experiment.py",
    "recipes/imagenet.py",
    "recipes/pets.py",
    "study/curves.py",  # study/test_figures.py
    "study/worker.py",  # study/test_record.py, study/test_runner.py
}
