// What all kernels share: threads, scratch memory, the arithmetic of a vector.
#pragma once

#include <math.h>
#include <stdlib.h>

#include "activations.h"
#include "problem.h"
#include "simd.h"

namespace groupnorm {
namespace GN_ISA {

// ---- threads and memory -------------------------------------------------------------------------

// body(begin, end) over [0, count) on PyTorch's threads; a thread gets at least `grain` of them.
template <class F> void parallel(const Problem& p, int64_t count, int64_t grain, F body) {
  if (count <= 0) return;
  if (p.threads == 1 || count <= grain) return body(int64_t(0), count);
  p.parallel(
      0, count, grain,
      [](int64_t begin, int64_t end, void* context) { (*static_cast<F*>(context))(begin, end); },
      &body);
}

constexpr int64_t kGrain = 16384;  // elements that are worth a thread

GN_INLINE int64_t grain_for(int64_t elements_each) {
  return larger<int64_t>(1, kGrain / larger<int64_t>(1, elements_each));
}

// How many parts to split a unit of work into so that `units` of them occupy the threads.
GN_INLINE int64_t parts_for(const Problem& p, int64_t units, int64_t elements_each) {
  if (p.threads == 1 || units >= 4 * p.threads || units % p.threads == 0) return 1;
  return larger<int64_t>(1, smaller<int64_t>(p.threads, elements_each / kGrain));
}

// body(k, from, to) for `parts` stretches of [0, total), each of them worth a thread.
template <class F> void parallel_parts(const Problem& p, int64_t parts, int64_t total, F body) {
  const int64_t part = (total + parts - 1) / parts;
  parallel(p, parts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) {
      const int64_t from = smaller(total, k * part);
      body(k, from, smaller(total, from + part));
    }
  });
}

// Sums of `parts` parts, each `width` numbers after the one before, added up in their order.
inline void add_parts(double* sums, int64_t parts, int64_t width) {
  for (int64_t k = 1; k < parts; ++k)
    for (int64_t c = 0; c < width; ++c) sums[c] += sums[k * width + c];
}

// Memory for numbers, not initialized, aligned and padded to whole vectors.
template <class E> class Scratch {
 public:
  explicit Scratch(int64_t count) {
    size_t bytes = (size_t(count) * sizeof(E) + 2 * kVectorBytes) / kVectorBytes * kVectorBytes;
    data_ = static_cast<E*>(aligned_alloc(kVectorBytes, bytes));
    if (data_ == nullptr) abort();
  }
  ~Scratch() { free(data_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  operator E*() const { return data_; }

 private:
  E* data_;
};

// ---- vectors of a row ---------------------------------------------------------------------------

// Asks for what comes 1 KB later in a row, for the processor's own prefetching starts anew with
// every row and page; beyond the end of the memory nothing is read.
template <class T> GN_INLINE void fetch_ahead(const T* p) {
  __builtin_prefetch(reinterpret_cast<const char*>(p) + 1024);
}

struct Whole { static constexpr bool value = false; };
struct Part { static constexpr bool value = true; };

#define GN_INLINE_LAMBDA __attribute__((always_inline))

// f(Whole or Part, offset, lanes) for the vectors of a row, of which the last may be partial.
template <class W, class F> GN_INLINE void for_vectors(int64_t count, F f) {
  constexpr int L = kLanes<W>;
  int64_t i = 0;
  for (; i + L <= count; i += L) f(Whole{}, i, L);
  if (i < count) f(Part{}, i, int(count - i));
}

// ---- the arithmetic -----------------------------------------------------------------------------

// z = (x - mean) * scale + shift + residual
template <class W> struct Normalize {
  Vector<W> mean, scale, shift;

  template <bool P, class T>  // before the activation; `residual` may be null
  GN_INLINE Vector<W> operator()(Vector<W> x, const T* residual, int n) const {
    const Vector<W> z = (x - mean) * scale + shift;
    return residual ? z + load<P>(residual, n) : z;
  }
  template <Activation A, bool P, class T>
  GN_INLINE Vector<W> gradient(Vector<W> x, const T* residual, const T* dy, int n) const {  // dz
    const Vector<W> g = load<P>(dy, n);
    if constexpr (A == Activation::none) return g;
    else return g * slope_of<A>(operator()<P>(x, residual, n));
  }
};

// A pointer further on, null staying null.
template <class T> GN_INLINE T* advance(T* p, int64_t by) { return p ? p + by : nullptr; }

// dx = dz * scale + (x - mean) * slope + constant, the last two from the group's sums:
// with a = dz * weight, slope = -rstd^2 * mean(a * xhat), constant = -rstd * mean(a).
template <class W> struct GroupGradient {
  W slope, constant;
  GroupGradient(double sum_a, double sum_a_centred, double count, W rstd) {
    const double r = double(rstd);
    slope = W(-r * r * r * sum_a_centred / count);
    constant = W(-r * sum_a / count);
  }
};

// ---- dz between the two passes of backward ------------------------------------------------------

// Where the slope is costly, dz is kept instead of being computed twice: in the output where its
// type loses nothing, else (`kept`) in memory of its own while that fits in the cache.
constexpr int64_t kMostScratch = 131072;  // numbers

template <class T> GN_INLINE int64_t scratch_count(const Problem& p, int64_t count) {
  const bool separate = sizeof(T) < sizeof(Acc<T>) && is_costly(p.activation);
  return separate && count <= kMostScratch ? count : 0;
}

// `target`: what has pointers dx, dresidual (or null) and kept (or null).
template <Activation A, bool P, class Target>
GN_INLINE void store_gradient(const Target& target, int64_t i, Vector<typename Target::W> dz,
                              int n) {
  if (target.dresidual) store<P>(target.dresidual + i, dz, n);
  if constexpr (!is_costly(A)) return;
  else if constexpr (sizeof(*target.dx) < sizeof(typename Target::W)) {
    if (target.kept) store<P>(target.kept + i, dz, n);
  } else if (!target.dresidual) {
    store<P>(target.dx + i, dz, n);
  }
}

template <Activation A, bool P, class Target, class F>
GN_INLINE Vector<typename Target::W> stored_gradient(const Target& target, int64_t i, int n,
                                                     F again) {
  if constexpr (!is_costly(A)) return again();
  else if constexpr (sizeof(*target.dx) < sizeof(typename Target::W))
    return target.kept ? load<P>(target.kept + i, n) : again();
  else return load<P>((target.dresidual ? target.dresidual : target.dx) + i, n);
}

// Sum over the rows, in their order, of `values` (rows, C): the gradient of a parameter.
template <class W>
void sum_rows(const Problem& p, int64_t rows, const W* values, void* result) {
  if (result == nullptr) return;
  W* out = static_cast<W*>(result);
  parallel(p, p.C, grain_for(rows), [&](int64_t begin, int64_t end) {
    constexpr int kChannels = 64;
    double sums[kChannels];
    for (int64_t c = begin; c < end; c += kChannels) {
      const int width = int(smaller<int64_t>(kChannels, end - c));
      for (int i = 0; i < width; ++i) sums[i] = 0;
      for (int64_t n = 0; n < rows; ++n)
        for (int i = 0; i < width; ++i) sums[i] += double(values[n * p.C + c + i]);
      for (int i = 0; i < width; ++i) out[c + i] = W(sums[i]);
    }
  });
}

}  // namespace GN_ISA
}  // namespace groupnorm
