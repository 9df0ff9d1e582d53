"""The studies: each a small function from options to a plan."""

from __future__ import annotations

from groupnorm import models
from groupnorm.study.plan import (
    Plan,
    PlanBuilder,
    PlanError,
    StudyOptions,
    base_recipe,
    canonical_norms,
    vary,
    with_batch,
)

GN = "gn:groups=8"
"""Group norm of the CIFAR-type networks: their first stage has 16 channels, so that the paper's
32 groups would be instance norm in half of the layers. 8 is the author's own choice for CIFAR."""

BATCH_SIZES = {"quick": (32, 8, 2), "standard": (32, 16, 8, 4, 2), "paper": (32, 16, 8, 4, 2)}
PROTOCOLS = {"quick": "fixed-step", "standard": "fixed-step", "paper": "paper"}
SEEDS = {"quick": 1, "standard": 3, "paper": 1}
NORMS = {"quick": ("bn", GN, f"{GN}+ws"), "standard": ("bn", GN, f"{GN}+ws"), "paper": ("bn", GN)}


def batch_size(options: StudyOptions) -> Plan:
    """Error against images per worker (the paper's Table 2 and Figures 1 and 5).

    Raises:
        PlanError: options that make no study.
    """
    base = base_recipe(options)
    protocol = options.protocol or PROTOCOLS[options.scale]
    sizes = BATCH_SIZES[options.scale] if options.batch_sizes is None else options.batch_sizes
    if not sizes:
        raise PlanError("no batch size is given")
    if len(set(sizes)) < len(sizes):
        raise PlanError(f"batch sizes given twice: {', '.join(map(str, sizes))}")
    builder = PlanBuilder()
    for norm in canonical_norms(NORMS[options.scale] if options.norms is None else options.norms):
        for size in sorted(sizes, reverse=True):
            config = vary(base, norm=norm, **with_batch(size, protocol))
            labels = {"norm": norm, "batch_per_worker": size}
            builder.add(labels, config, options.seeds or SEEDS[options.scale])
    title = "Error against batch size per worker"
    return Plan("batch-size", title, protocol, options, builder.cells, builder.configs)


def norms(options: StudyOptions) -> Plan:
    """Training and validation curves of BN, LN, IN and GN at one batch size (Figure 4, Table 1).

    Raises:
        PlanError: options that make no study.
    """
    base = base_recipe(options)
    protocol = options.protocol or PROTOCOLS[options.scale]
    size = _one_size(options)
    builder = PlanBuilder()
    for norm in canonical_norms(("bn", "ln", "in", GN) if options.norms is None else options.norms):
        config = vary(base, norm=norm, **with_batch(size, protocol))
        labels = {"norm": norm, "batch_per_worker": size}
        builder.add(labels, config, options.seeds or SEEDS[options.scale])
    title = f"Normalizations at {size} images per worker"
    return Plan("norms", title, protocol, options, builder.cells, builder.configs)


def groups(options: StudyOptions) -> Plan:
    """Error against the number of groups and channels per group, 64 to 1 (Table 3).

    What a layer's width cannot be divided into is skipped, with the reason in the plan.

    Raises:
        PlanError: options that make no study.
    """
    if options.norms is not None:
        raise PlanError("the groups study chooses its norms itself; leave --norms out")
    base = base_recipe(options)
    protocol = options.protocol or PROTOCOLS[options.scale]
    size = _one_size(options)
    widths = models.channel_widths(base.model, base.width)
    builder = PlanBuilder()
    skipped = []
    for division, word in (("groups", "groups"), ("size", "channels per group")):
        for value in (64, 32, 16, 8, 4, 2, 1):
            norm = f"gn:{division}={value}"
            labels = {
                "norm": canonical_norms((norm,))[0],
                "division": division,
                "value": value,
                "batch_per_worker": size,
            }
            misfit = [width for width in widths if width % value]
            if misfit:
                reason = f"{misfit[0]} channels cannot be divided into {value} {word}"
                if division == "size":
                    reason = f"{misfit[0]} channels cannot be divided into groups of {value}"
                skipped.append({"labels": labels, "reason": reason})
                continue
            config = vary(base, norm=norm, **with_batch(size, protocol))
            builder.add(labels, config, options.seeds or SEEDS[options.scale])
    title = f"Group division at {size} images per worker"
    return Plan("groups", title, protocol, options, builder.cells, builder.configs, skipped)


STUDIES = {"batch-size": batch_size, "norms": norms, "groups": groups}


def _one_size(options: StudyOptions) -> int:
    sizes = (32,) if options.batch_sizes is None else options.batch_sizes
    if len(sizes) != 1:
        raise PlanError(
            f"this study has one batch size, got {', '.join(map(str, sizes)) or 'none'}; "
            "use 'groupnorm study batch-size' to compare several"
        )
    return sizes[0]
