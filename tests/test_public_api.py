"""The public names, pinned."""

import importlib
from pathlib import Path

import pytest

import groupnorm

PUBLIC = {
    "groupnorm": {
        "GroupNorm", "GroupNormAct", "NormSpec", "convert", "explain", "group_norm",
        "keep_large_blocks", "large_blocks_are_kept", "norm_layer",
    },
    "groupnorm.layers": {
        "WS_FORMS",
        "BatchNorm",
        "BatchRenorm",
        "CalibratedGroupNorm",
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
        "conv_layer",
        "norm_and_activation",
        "norm_layer",
        "norm_modules",
        "rows_per_worker",
        "standardize",
    },
    "groupnorm.conversion": {
        "ConversionReport", "FitLimits", "RescaledWeightStandardization", "WeightStandardization",
        "convert", "fold", "freeze", "freeze_groups", "inflate", "load_backbone", "load_detector",
        "load_inflated", "load_published", "preview", "rebuild", "recompute_statistics",
        "recomputed_statistics", "standardize_convolutions", "standardize_weights", "unfreeze",
    },
    "groupnorm.export": {
        "TARGETS", "ExportError", "ExportReport", "inspect", "prepare", "read_report", "repair",
        "save", "verify",
    },
    "groupnorm.cost": {"bytes_saved", "count_flops", "measure_cost"},
    "groupnorm.models": {
        "ResNetCifar", "build_detector", "build_model", "build_segmentation_model",
        "build_video_model", "channel_widths", "check_detector", "check_model", "check_places",
        "check_segmentation_model", "check_video_model", "count_parameters", "imagenet_resnet",
        "places_of", "usual_images", "vgg16", "widths_of_place",
    },
    "groupnorm.experiments": {
        "EXPERIMENTS", "Experiment", "Options", "build", "study_plan",
    },
    "groupnorm.study": {
        "Cluster", "Plan", "PlanError", "run_study",
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
    "__main__.py",  # cli/test_train_processes.py starts it
    "conversion/calibration/network.py",  # conversion/test_with_data.py, as the next one
    "conversion/calibration/norm.py",
    "conversion/example.py",  # conversion/test_surgery.py, as the next three
    "conversion/sources.py",
    "conversion/trial.py",
    "conversion/walk.py",
    "data/detection/workers.py",  # data/detection/test_batches.py
    "data/files/class_folders.py",  # data/sets/test_image_folder.py
    "data/files/issues.py",  # data/files/test_batches.py and data/video/test_batches.py
    "data/files/splits.py",  # data/sets/test_image_folder.py and test_kinetics.py
    "data/synthetic/cache.py",  # data/sets/test_fashion_scenes.py and test_garments_motion.py
    "data/synthetic/folder.py",  # data/sets/test_garments.py
    "data/synthetic/sources.py",  # data/sets/test_fashion_scenes.py
    "export/errors.py",  # export/test_saving.py, as verification.py
    "export/onnx_file/find.py",  # export/onnx_file/test_inspection.py, as the next two
    "export/onnx_file/graph.py",
    "export/onnx_file/sizes.py",
    "export/onnx_file/write.py",  # export/onnx_file/test_repair.py
    "export/programs/graphs.py",  # export/programs/test_slices.py
    "export/runtimes/description.py",  # the tests of the runtimes
    "export/runtimes/executorch_portable.py",  # export/runtimes/test_executorch.py
    "export/verification.py",
    "experiments/experiment.py",  # experiments/test_catalog.py, as the next two
    "experiments/imagenet.py",
    "experiments/pets.py",
    "models/classification/widths.py",  # models/test_registry.py, test_resnet_imagenet.py
    "models/detection/roi_heads.py",  # models/detection/test_mask_rcnn.py
    "models/segmentation/architectures.py",  # models/test_registry.py, as the next one
    "models/video/architectures.py",
    "models/video/layers.py",  # models/video/test_i3d.py, test_i3d_narrow.py
    "ops/group_norm/arguments.py",  # test_api.py and test_tensor_states.py
    "ops/group_norm/autograd.py",  # test_api.py, with every kernel
    "ops/group_norm/expanded_weights.py",  # test_tensor_states.py
    "ops/group_norm/layout.py",  # test_api.py, in every layout
    "ops/group_norm/memory.py",
    "ops/group_norm/triton/kernels/activations.py",  # triton/test_backend.py, as the next three
    "ops/group_norm/triton/kernels/backward.py",
    "ops/group_norm/triton/kernels/forward.py",
    "ops/group_norm/triton/launch.py",
    "ops/per_channel.py",  # the layers that use it
    "run/sampled_scenes.py",  # study/test_sample_pass.py
    "training/tasks/labelled.py",  # training/tasks/test_classification.py and test_video.py
    "training/config/errors.py",  # training/config/test_classification.py, as the next one
    "training/config/fields.py",
    "study/schema.py",  # study/store/test_records.py
    "study/report/cost_tables.py",  # study/results/test_costs.py
    "study/report/figures/sheet.py",  # test_predictions.py and test_clip_strips.py there
    "study/report/text/divisions.py",  # study/report/text/test_describe.py, as the next two
    "study/report/text/findings.py",
    "study/report/text/published.py",
    "study/results/samples.py",  # study/test_sample_pass.py
    "study/runners/worker.py",  # study/runners/test_launcher.py
}
