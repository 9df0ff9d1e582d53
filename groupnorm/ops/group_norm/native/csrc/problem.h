// What a kernel is asked to do, in plain pointers and sizes.
//
// Letters, as everywhere: N batch, C channels, G groups, D = C / G channels per group, S positions.
#pragma once

#include <cstdint>

namespace groupnorm {

enum class Type : int { f32, f64, bf16, f16 };
enum class Activation : int { none, relu, leaky_relu, silu, gelu, gelu_tanh, mish, hardswish };

constexpr double kLeakySlope = 0.01;

// PyTorch's own `torch_parallel_for`: body(begin, end, context) on PyTorch's threads.
using ParallelFor = int (*)(int64_t begin, int64_t end, int64_t grain,
                            void (*body)(int64_t, int64_t, void*), void* context);

// Tensors are dense. x, residual, y, dy, dx, dresidual have `type` and shape (N, C, S), or
// (N, S, C) with `channels_last`; in batch norm (G = C) a sample is I images, and the shape is
// (N, I, C, S). The accumulation type is double where `type` is f64, else float.
struct Problem {
  int64_t N, C, G, S, I;  // I: 1, or the images of a sample where not channels_last
  bool channels_last;
  Type type;
  Activation activation;
  double eps;
  int threads;
  ParallelFor parallel;
  int64_t cache_bytes;  // of the last level; 0 where it is not known

  const void* x;
  const void* residual;  // or null
  const void* weight;    // (C), or null for 1; accumulation type unless `parameters_as_input`
  const void* bias;      // (C), or null for 0
  bool parameters_as_input;  // weight and bias have `type`
  void* mean;            // accumulation type (N, G): written forward (unless null), read backward
  void* rstd;
  void* residual_mean;   // what rounding of the mean left, like the mean; or null
  void* var;             // forward: the biased variance, like the mean; or null

  // Forward: the output, which may be x or residual (then mean and rstd are not null). A group whose
  // sum of squares is not finite has an rstd of NaN and no output; where that is written over an
  // input, it can be so for a whole sample.
  void* y;
  bool* overflowed;  // set where there is such a group

  const void* dy;   // backward
  void* dx;         // may not be null
  void* dresidual;  // or null
  void* dweight;    // accumulation type (C), or null
  void* dbias;
};

// One set of kernels for each instruction set, from the same source.
#define GN_DECLARE(isa)               \
  namespace isa {                     \
  void forward(const Problem&);       \
  void backward(const Problem&);      \
  }
GN_DECLARE(portable)
#if defined(__x86_64__)
GN_DECLARE(avx2)
GN_DECLARE(avx512)
#if defined(GN_AVX512_BF16)
GN_DECLARE(avx512_bf16)
#endif
#endif
#undef GN_DECLARE

}  // namespace groupnorm
