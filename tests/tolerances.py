"""The one table of tolerances, each with its reason. Nothing loosens them: no option, no variable.

Errors are against float64 on the same (already rounded) input, so the input's own rounding does
not count. Letters: m = |mean| * rstd, how far a group lies from zero in units of its spread; u the
unit roundoff of the type the numbers are computed in (2^-24 for float32, 2^-53 for float64).

- Statistics: the mean of a group is a sum with relative error of a few u, so x - mean is off by a
  few u * |mean|, and xhat = (x - mean) * rstd by a few u * (1 + m). What centres first and centres
  again (the reference, the shift of the aten backend, the native kernels, the Triton kernels'
  output) has no such term: m = 0. The Triton kernels' gradients start from the mean rounded to
  float32: they have it.
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

# Where a size changes in the middle of a step, sums over steps differ by at most one of them.
ONE_STEP = 1.0

# ---- Two ways to the same numbers ---------------------------------------------------------------
# Absolute where the numbers are near 1, relative where a test says so. float32: sums in another
# order differ by some u, and what follows multiplies the differences.
STEP = 1e-6  # one output or statistic of one layer: 16 u, as above
LAYER = 1e-5  # a layer's gradients, or another formula for its output: sums of sums
NETWORK = 1e-4  # through the layers of a network, or relative errors of its gradients
DEEP = 1e-3  # through tens of layers, or where 1 / sqrt(eps) = 316 multiplies the rounding
# float64: the same, in units of 1e-16.
DOUBLE = 1e-12  # one layer, or a sum of thousands
ZERO_64 = 1e-14  # a mean that was subtracted: a few u of numbers near 1
FORMULA_64 = 1e-9  # a formula with a root or an interpolation, evaluated in another way
SOLVED_64 = 1e-6  # a linear system of normal equations, whose condition is squared
GRID_64 = 1e-7  # an integral over a kink, as a sum over a grid of 24,001 points
GRADIENTS_64 = {"rtol": 1e-11, "atol": 1e-13}  # of one step, summed in other chunks
DDP_64 = {"rtol": 1e-10, "atol": 1e-12}  # of one step, averaged over processes
WHOLE_NETWORK_64 = {"rtol": 1e-7, "atol": 1e-9}  # tens of layers of random weights
SAMPLES_64 = {"rtol": 1e-6, "atol": 1e-8}  # PyTorch's sample inputs, whose eps may be negative
# A numeric derivative has the error of its difference quotient; PyTorch's samples have a small
# variance and an eps below zero, where it is large.
GRADCHECK = {"atol": 1e-4, "rtol": 1e-3}
# A derivative of float32 gradients by their difference over 0.02: the quotient's own error is of
# second order, and their rounding is divided by 0.02.
QUOTIENT = 2e-3
# Twenty steps of a training in float64, computed in one process or in several: each step sums in
# another order (a few u), and 20 steps with momentum at a learning rate that learns multiply such
# differences by some thousands; 1e-9 leaves a factor of a thousand to what was seen. In float32
# the same growth would leave three digits.
TWENTY_STEPS = 1e-9

# ---- Half types ---------------------------------------------------------------------------------
HALF_STATISTICS = 2e-3  # a float16 near 1 or 3, whose last place is 2e-3 at most
ANY_STATE = 2e-4  # tensors in any state: what is compared is the kind of result, not its digits
ANY_STATE_HALF = 5e-2  # the same where PyTorch rounds to half several times

# Losses of two trainings under autocast to bfloat16, whose roundings differ: a step's, and the mean
# of the last ten, where such differences average out. They begin near 2.3.
AUTOCAST_LOSS = 0.1
AUTOCAST_LOSS_AT_END = 0.03
HALF_STATES = 0.02  # relative: errors of fits, where what lies between two layers was float16
FAR_SINGLE = 1e-2  # weights solved for from float32 numbers near 1,000: four of seven digits go
QUANTIZED = 0.2  # 8-bit integers in every layer, relative to the largest output

# ---- Exact but for what a test leaves out -------------------------------------------------------
EPS = 1e-3  # the variance of a normalized output is var / (var + eps), not 1
SIGN = 1e-2  # x / sqrt(x^2 + eps) of an x near 0 is not quite its sign
MADE_UP = 0.5  # points: by less do results that a test makes up differ between seeds
CLEARLY = 0.1  # not a tolerance: what differs by more is another result
COSINE_END = 1e-5  # the last of 1,000 steps of a cosine is not quite 0
SUBNORMAL = 1e-37  # absolute: below it float32 has fewer digits, and kernels may flush to zero

# ---- Published and printed numbers --------------------------------------------------------------
PRINTED = 1e-3  # three digits
FOUR_DIGITS = 1e-4
FIVE_DIGITS = 1e-5
HALF_A_TENTH = 0.05  # one digit after the point
HUNDREDTH = 0.01  # two digits after the point; of a figure, a hundredth of an inch
PUBLISHED_MOMENTS = 0.003  # mean and deviation of a whole data set, seen in a part of it
PUBLISHED_GAIN = 1e-3  # timm's table was estimated from random samples

# ---- Statistics of random draws, relative: about 1 / sqrt(2 n) for a deviation of n numbers -----
ONE_PERCENT = 0.01  # a million of them
SAMPLED = 0.02  # tens of thousands
SAMPLED_FEW = 0.03  # thousands
SAMPLED_THOUSAND = 0.1  # one thousand
SAMPLED_HUNDREDS = 0.2  # two hundred
SAMPLED_MEAN = 0.06  # of 4,000 draws, in their deviation: 4 / sqrt(n)
SAMPLED_LOG_ASPECT = 0.03  # absolute: 4 / sqrt(n) of 600 draws of deviation 0.17
SAMPLED_COVARIANCE = 0.08  # absolute, 4,000 draws of three numbers
OTHER_IMAGES = 0.5  # relative: errors of a network on two draws of tens of images
SAMPLED_DEEP = 0.25  # through 20 layers with zero padding at the border

# ---- Measured -----------------------------------------------------------------------------------
TIMED = 1e-3  # of a clock that the test turns; what lies between is the test's own time
TIMED_ZERO = 1e-2  # ms
FONTS = 0.01  # mean over a figure's pixels, 0 to 1: letters are drawn a little differently
ALLOCATED = 0.03  # a convolution's workspace is not in the prediction


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
