"""The one table of tolerances, each with its reason. Nothing loosens them: no option, no variable.

Errors are against float64 on the same (already rounded) input, so the input's own rounding does
not count. Letters: m = |mean| * rstd, how far a group lies from zero in units of its spread; u the
unit roundoff of the type the numbers are computed in (2^-24 for float32, 2^-53 for float64).

- Statistics: the mean of a group is a sum with relative error of a few u, so x - mean is off by a
  few u * |mean|, and xhat = (x - mean) * rstd by a few u * (1 + m). What centres first and centres
  again (the reference, the shift of the aten backend, the native kernels' output) has no such
  term: m = 0. The native kernels' gradients start from the mean rounded to float32: they have it.
- Output: xhat's error times |weight|, and the rounding of the sum with the bias.
- dx: rstd * (a - mean(a) - xhat * mean(a * xhat)): relative to the largest |a| * rstd the error is
  again a few u * (1 + m).
- dweight, dbias: sums of dz * xhat over M values; the bound is a few u * (1 + m) of the sum of
  the absolute values, whatever the order of summation (pairwise or blocked).
- Half types are computed in float32 and rounded once: half a unit in the last place of the largest
  result, plus the float32 error.
"""

from __future__ import annotations

import torch

# "A few" in the sums above: 16 u is the contract's 1e-6 * (1 + m) for float32.
FEW = 16
ROUNDOFF = {
    torch.float64: 2.0**-53,
    torch.float32: 2.0**-24,
    torch.bfloat16: 2.0**-24,
    torch.float16: 2.0**-24,
}
# Rounding of the result to its own type: half a unit in the last place, relative.
STORAGE = {
    torch.float64: 2.0**-53,
    torch.float32: 2.0**-24,
    torch.bfloat16: 2.0**-8,
    torch.float16: 2.0**-11,
}
# Triton's interpreter cuts a float32 off where it becomes a bfloat16: a whole unit instead of half.
STORAGE_INTERPRETED = {**STORAGE, torch.bfloat16: 2.0**-7}
# Half numbers below the smallest normal one have an absolute spacing.
TINY = {torch.float64: 0.0, torch.float32: 0.0, torch.bfloat16: 0.0, torch.float16: 2.0**-24}

# Twenty steps of a training in float64, computed in one process or in several: each step sums in
# another order (a few u), and 20 steps with momentum at a learning rate that learns multiply such
# differences by some thousands; 1e-9 leaves a factor of a thousand to what was seen. In float32
# the same growth would leave three digits.
TWENTY_STEPS = 1e-9


def bound(
    dtype: torch.dtype, offset: float, scale: float, largest: float, storage=STORAGE
) -> float:
    """Largest allowed absolute error.

    Args:
        dtype: of input and result.
        offset: m, the largest |mean| * rstd of the groups; 0 for what centres twice.
        scale: what the computation's error is relative to: largest |weight| for the output,
            largest |a| * rstd for dx, the sum of absolute values for dweight and dbias.
        largest: largest absolute value of the result, for its rounding.
        storage: STORAGE, or STORAGE_INTERPRETED of what Triton's interpreter rounded.
    """
    computed = FEW * ROUNDOFF[dtype] * (1 + offset) * scale
    return computed + storage[dtype] * (largest + computed) + TINY[dtype]
