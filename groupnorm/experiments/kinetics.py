"""The paper's experiment with videos (Wu & He 2018, section 4.3): clips per worker against frames.

Half as many clips of twice the frames need the memory of what they replace. Each run starts from an
ImageNet classifier with its norm, which is trained first, by the recipe of `imagenet`; its filters
are inflated in time.
"""

from __future__ import annotations

from groupnorm.experiments import imagenet
from groupnorm.experiments.experiment import Experiment, Variant, smoke
from groupnorm.experiments.options import Options
from groupnorm.spec import NormSpec
from groupnorm.study.plan import vary
from groupnorm.training.config import RunConfig, VideoConfig
from groupnorm.training.metric import VIDEO

STEPS = 400_000
"""Of 8 workers with 8 clips each: 25.6 million clips, about 107 epochs of Kinetics-400."""
NORMS = (NormSpec("bn"), NormSpec("gn"))
CELLS = (
    {"frames": 32, "stride": 2, "batch_per_worker": 8, "steps": STEPS},
    {"frames": 32, "stride": 2, "batch_per_worker": 4, "steps": 2 * STEPS},
    {"frames": 64, "stride": 1, "batch_per_worker": 4, "steps": 2 * STEPS},
)
"""The columns of Table 8. At 4 clips there are twice the steps, so that as many clips are seen, and
the learning rate is half as high (`VideoConfig.learning_rate`): the paper says neither."""
SMOKE_DATA = "garments-motion-files"
SMOKE_CLIPS = {"train_images": 16, "validation_images": 10, "test_clips": 2}
_SHORTER, _FEWER = 4, 2  # frames, and clips per worker, at smoke scale


def recipe() -> VideoConfig:
    """I3D ResNet-50 as the non-local networks' baseline is trained, which the paper takes.

    8 workers with 8 clips each, 400,000 steps, learning rate 0.01 divided by 10 after 150,000 and
    300,000, Nesterov momentum 0.9, weight decay 1e-4 and none on gamma and beta, dropout 0.5; short
    side 256 to 320, crops of 224, flipped at random; a test video has 10 clips, whose softmax is
    averaged (Wang et al. 2018, arXiv 1711.07971, and facebookresearch/video-nonlocal-net,
    `run_i3d_baseline_400k_32f.sh`). A step is made in eight passes, which is no part of the
    publication: one worker at a time needs the memory of one of its 8 GPUs.
    """
    return VideoConfig(
        model="i3d_resnet50",
        data="kinetics",
        image_size=224,
        workers=8,
        accumulate=8,
        test_clips=10,
        **CELLS[0],
    )


def pretraining(norm: NormSpec) -> RunConfig:
    """The classifier whose inflated weights a run with this norm starts from."""
    return vary(imagenet.recipe(), norm=norm)


def clips(options: Options) -> Experiment:
    """I3D ResNet-50 on Kinetics-400, BN and GN, 32 frames at 8 and 4 clips, 64 at 4 (Table 8).

    `groupnorm study kinetics-clips`. Published: top-1 accuracy of BN 73.3, 72.1 and 73.3, of GN
    73.0, 72.8 and 74.5. The short clips have every second frame, the long ones every frame of as
    long a part of the video. The paper gives no learning rate for 4 clips per worker; here it is
    half that for 8, with twice the steps. Smoke: a few files of 16 pixels, a quarter of the frames.
    """
    variants, initial = [], []
    for norm in NORMS:
        start = pretraining(norm)
        if options.scale == "smoke":
            start = smoke(start, 4, imagenet.SMOKE_DATA)
        initial.append(start)
        base = vary(recipe(), norm=norm, init=start.run_name())
        variants += [Variant(_scaled(vary(base, **cell), options)) for cell in CELLS]
    return Experiment(
        title="I3D ResNet-50 on Kinetics by norm, clips per worker and frames of a clip",
        source="Wu & He 2018, Table 8",
        result="BN 73.3, 72.1, 73.3, GN 73.0, 72.8, 74.5 (32 frames at 8 and 4 clips, 64 at 4)",
        result_metric="top-1 accuracy in %",
        time="no time is published; 25.6 million clips each, besides each norm's ImageNet run",
        shows="clips",
        variants=tuple(variants),
        published=("kinetics-clips",),
        metric=VIDEO[0],
        also=VIDEO[1:4],
        initial=tuple(initial),
    )


def _scaled(config: VideoConfig, options: Options) -> VideoConfig:
    """At smoke scale the same network, norm and optimizer on a few small clips."""
    if options.scale != "smoke":
        return config
    whole = vary(config, accumulate=1, image_size=None)
    small = smoke(whole, config.batch_per_worker // _FEWER, SMOKE_DATA)
    return vary(small, frames=config.frames // _SHORTER, **SMOKE_CLIPS)
