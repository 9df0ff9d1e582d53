"""The catalogue of experiments by name, and the study plan of each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from groupnorm.data import DEFAULT, IMAGE_FILES, VIDEO_FILES
from groupnorm.experiments import (
    cifar,
    coco,
    conversion,
    detection,
    fine_tuning,
    imagenet,
    kinetics,
    pets,
    search,
    small_images,
    video,
)
from groupnorm.experiments.experiment import Experiment, Variant
from groupnorm.experiments.options import Options
from groupnorm.study.plan import Plan, PlanError, repeat, vary
from groupnorm.study.search import search_plan
from groupnorm.study.tuning import tuned_plan
from groupnorm.training.config import RunConfig, TrainingConfig


@dataclass(frozen=True)
class Entry:
    """An experiment of the catalogue.

    Attributes:
        make: from options, whose scale is given, to the experiment.
        scales: each with what it is; the first is the default.
        decides: the options that the experiment does not leave to its user.
        data: the data set where the user names none; None: the experiment's own.
        summary: what it compares, in a few words that no option changes; None: its title.
        one_size: it has one batch size.
        own_network: it can be done with a network of the user's own in place of its runs.
    """

    make: Callable[[Options], Experiment]
    scales: Mapping[str, str]
    decides: tuple[str, ...] = ()
    data: str | None = None
    summary: str | None = None
    one_size: bool = False
    own_network: bool = False

    @property
    def takes(self) -> tuple[str, ...]:
        """The options that its user may give."""
        return tuple(key for key in Options.model_fields if key not in self.decides)

    def describe(self, key: str) -> str:
        """An option in words."""
        if key == "scale":
            scales = [f"{name}: {what}" for name, what in self.scales.items()]
            return "; ".join([*scales, f"default: {next(iter(self.scales))}"]) + "."
        if key == "batch_sizes" and self.one_size:
            return "Images per worker: one number."
        return " ".join((Options.model_fields[key].description or "").split())

    def check_keys(self, keys: Iterable[str]) -> None:
        """Raise PlanError for a key that is no option of this experiment."""
        for key in keys:
            if key not in self.takes:
                raise PlanError(f"unknown key {key!r}; known keys: {', '.join(self.takes)}")

    def complete(self, options: Options) -> Options:
        """The options with scale and data set filled in.

        Raises:
            PlanError: an unknown scale, an option that the experiment decides itself, or the length
                of a smoke run, which has its own.
        """
        self.check_keys(options.given())
        scales = list(self.scales)
        scale = scales[0] if options.scale is None else options.scale
        if scale not in scales:
            known = ", ".join(map(repr, scales[:-1]))
            raise PlanError(f"scale must be {known} or {scales[-1]!r}, got {scale!r}")
        if scale == "smoke" and options.epochs is not None:
            raise PlanError("the smoke scale has two steps; leave --epochs out")
        data = self.data if options.data is None else options.data
        return options.model_copy(update={"scale": scale, "data": data})


def _published(make: Callable[[Options], Experiment], *besides: str) -> Entry:
    """An experiment that is published, which decides its norms and more."""
    scales = {
        "full": "as published, days on GPUs",
        "smoke": "two steps of each run, a minute or a few on a CPU",
    }
    decides = ("model", "norms", "batch_sizes", "protocol", *_OF_A_SEARCH, *besides)
    return Entry(make, scales, decides)


_OF_A_SEARCH = ("search", "refine")
_TUNED = ("tune", "validation_images")
_OF_CLASSIFIERS = ("image_size", *_TUNED)
_OF_SMALL_SCENES = (
    "data", "model", "norms", "batch_sizes", "protocol", "epochs", *_OF_CLASSIFIERS, *_OF_A_SEARCH,
)  # fmt: skip


EXPERIMENTS: dict[str, Entry] = {
    "batch-size": Entry(
        small_images.batch_size,
        small_images.SCALES,
        decides=_OF_A_SEARCH,
        data=DEFAULT,
        summary="Error against images per worker, for several norms",
    ),
    "norms": Entry(
        small_images.norms,
        small_images.SCALES,
        decides=_OF_A_SEARCH,
        data=DEFAULT,
        summary="Training and validation curves of BN, LN, IN and GN",
        one_size=True,
    ),
    "groups": Entry(
        small_images.groups,
        small_images.SCALES,
        decides=("norms",),
        data=DEFAULT,
        summary="Error against number of groups and channels per group",
        one_size=True,
    ),
    "detection": Entry(
        detection.detection,
        detection.SCALES,
        decides=_OF_SMALL_SCENES,
        summary="Detectors of garments with frozen BN, trained BN, GN and GN+WS",
    ),
    "video": Entry(
        video.video,
        video.SCALES,
        decides=_OF_SMALL_SCENES,
        summary="Video classifiers with BN and GN by clips per worker and length of clips",
    ),
    "convert": Entry(
        conversion.conversion,
        conversion.SCALES,
        decides=(*_OF_SMALL_SCENES, "train_images", "evaluate_every"),
        summary="What conversions of batch norm networks to group norm keep of them",
        own_network=True,
    ),
    "fine-tuning": Entry(
        fine_tuning.fine_tuning,
        fine_tuning.SCALES,
        decides=(
            "data",
            "model",
            "norms",
            "batch_sizes",
            "protocol",
            "epochs",
            "image_size",
            *_OF_A_SEARCH,
        ),
        summary="Converted networks fine-tuned on another task at 1, 2 and 4 images per worker",
    ),
    "imagenet-batch-size": _published(imagenet.batch_size),
    "imagenet-norms": _published(imagenet.norms),
    "imagenet-groups": _published(imagenet.groups),
    "imagenet-resnet101": _published(imagenet.resnet101),
    "imagenet-vgg16": _published(imagenet.vgg16),
    "imagenet-batch-renorm": _published(imagenet.batch_renorm),
    "imagenet-large-batch": _published(imagenet.large_batch),
    "pets-resnet34": _published(partial(pets.pets, depth=34)),
    "pets-resnet50": _published(partial(pets.pets, depth=50)),
    "coco-c4": _published(coco.c4, *_OF_CLASSIFIERS),
    "coco-heads": _published(coco.heads, *_OF_CLASSIFIERS),
    "coco-systems": _published(coco.systems, *_OF_CLASSIFIERS),
    "coco-scratch": _published(coco.scratch, *_OF_CLASSIFIERS),
    "coco-retinanet": _published(coco.retinanet, *_OF_CLASSIFIERS),
    "kinetics-clips": _published(kinetics.clips, *_TUNED),
}
for _depth in (56, 110):
    for _suffix, _convention in cifar.CONVENTIONS.items():
        for _name, _make in (("batch-size", cifar.batch_size), ("groups", cifar.groups)):
            EXPERIMENTS[f"cifar10-resnet{_depth}-{_name}{_suffix}"] = _published(
                partial(_make, depth=_depth, convention=_convention)
            )


def entry(name: str) -> Entry:
    """An experiment by name.

    Raises:
        PlanError: an unknown name.
    """
    if name not in EXPERIMENTS:
        raise PlanError(f"unknown study {name!r}; known: {', '.join(EXPERIMENTS)}")
    return EXPERIMENTS[name]


def build(name: str, options: Options | None = None) -> Experiment:
    """The experiment of a name.

    Raises:
        PlanError: an unknown name, or options that make no study.
    """
    found = entry(name)
    return found.make(found.complete(options or Options()))


def study_plan(name: str, options: Options | None = None) -> Plan:
    """The study plan of an experiment: its cells and the runs that fill them.

    Raises:
        PlanError: an unknown name, or options that make no study.
    """
    found = entry(name)
    options = found.complete(options or Options())
    experiment = found.make(options)
    labelled = tuple((experiment.labels(v), _changed(v, options)) for v in experiment.variants)
    repeated = [
        repeat([one], options.seeds or variant.seeds or experiment.seeds)
        for one, variant in zip(labelled, experiment.variants, strict=True)
    ]
    smoke = options.scale == "smoke"
    assert options.scale is not None
    plan = Plan(
        name,
        experiment.title + (" (smoke scale: nothing is learned)" if smoke else ""),
        experiment.protocol,
        options.scale,
        options.model_dump(mode="json"),
        [cell for cells, _ in repeated for cell in cells],
        {name: config for _, configs in repeated for name, config in configs.items()},
        shows=experiment.shows,
        published=experiment.published,
        initial=_starts(experiment, options),
        metric=experiment.metric,
        also=experiment.also,
        findings=experiment.findings,
        conversions=experiment.conversions,
        skipped=[{"labels": experiment.labels(v), "reason": why} for v, why in experiment.skipped],
        untimed=_untimed(smoke, experiment),
    )
    if options.search:
        base = labelled[0][1]
        assert isinstance(base, RunConfig)
        return _searched(plan, base, options)
    if options.refine:
        raise PlanError("refine goes with search")
    tune = options.tune or experiment.tune
    if tune is not None:
        seeds = options.seeds or range(experiment.seeds)
        images = options.validation_images or experiment.validation_images
        return tuned_plan(plan, labelled, seeds, tune, images)
    if options.validation_images is not None:
        raise PlanError("validation_images goes with tune or search: nothing else is held out")
    return plan


def _untimed(smoke: bool, experiment: Experiment) -> str | None:
    """Why training steps are not timed, if they are not."""
    if experiment.conversions:
        return "the study compares conversions, not training"
    return "the smoke scale measures nothing" if smoke else None


def _changed(variant: Variant, options: Options) -> TrainingConfig:
    """The variant's configuration with what the user chose."""
    config = variant.config
    changes = options.of_the_run(type(config))
    if "epochs" in changes:
        changes["steps"] = None
    of_files = (*IMAGE_FILES, *VIDEO_FILES)
    own_size = changes.get("data", of_files[0]) not in of_files
    if own_size and getattr(config, "image_size", None) is not None:
        changes.setdefault("image_size", None)  # the experiment's own is for image files
    return vary(config, **changes)


def _starts(experiment: Experiment, options: Options) -> dict[str, TrainingConfig]:
    """The runs that others start from, by name; the user chooses nothing that is in the name."""
    share = options.max_unreadable
    changes = {} if share is None else {"max_unreadable": share}
    return {config.run_name(): vary(config, **changes) for config in experiment.initial}


def _searched(plan: Plan, base: RunConfig, options: Options) -> Plan:
    """The plan of a study of group divisions as a search among them."""
    if options.tune is not None:
        raise PlanError("tune does not go with search: a search trains nothing to its end")
    if options.evaluate_every is not None:
        raise PlanError("evaluate_every does not go with search, which evaluates every epoch")
    base = search.long_enough(base, options.epochs)
    rules, misfits = search.rules_of(base)
    labels = {"batch_per_worker": base.batch_per_worker}
    plan = replace(
        plan,
        title=f"Number of groups found at {base.batch_per_worker} images per worker",
        published=(),
        skipped=[{"labels": {"norm": str(spec), **labels}, "reason": why} for spec, why in misfits],
    )
    seeds = options.seeds or range(search.SEEDS)
    return search_plan(plan, rules, seeds, options.validation_images, refine=bool(options.refine))
