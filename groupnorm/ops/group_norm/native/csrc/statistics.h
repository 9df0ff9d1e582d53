// Mean and variance of a stretch of numbers: one pass, around a shift near the mean.
#pragma once

#include <cmath>

#include "common.h"

namespace groupnorm {
namespace GN_ISA {

// Sums over d = x - shift. With the shift near the mean nothing cancels.
struct Moments {
  double sum = 0, squares = 0;
  GN_INLINE Moments& operator+=(const Moments& other) {
    sum += other.sum;
    squares += other.squares;
    return *this;
  }
};

// The mean as its nearest number of the accumulation type, what is left of it,
// 1 / sqrt(variance + eps), and the biased variance.
template <class W> struct Statistics {
  W mean, residual_mean, rstd, var;
  bool shift_was_poor;  // so far from the mean that the variance lost digits: sum again around it
  bool overflowed;      // or the input is not finite: a sum of squares is not

  Statistics(const Moments& m, double count, W shift, double eps) {
    const double offset = m.sum / count;
    const double centred = m.squares - m.sum * offset;
    const double exact = double(shift) + offset;
    mean = W(exact);
    residual_mean = W(exact - double(mean));
    const double variance = centred > 0 ? centred / count : 0.0;
    rstd = W(1.0 / sqrt(variance + eps));
    var = W(variance);
    shift_was_poor = m.squares > 4 * centred && W(exact) != shift;
    overflowed = !std::isfinite(m.squares);
  }
};

template <class T> GN_INLINE Acc<T> single(const T* x) { return load<true>(x, 1)[0]; }
template <> GN_INLINE float single(const float* x) { return *x; }
template <> GN_INLINE double single(const double* x) { return *x; }

// Mean of up to 16 numbers spread over the group.
template <class T> Acc<T> shift_of(const T* x, int64_t count) {
  const int64_t most = count < 4096 ? 4 : 16;
  const int64_t samples = larger<int64_t>(1, smaller(most, count / 16));
  const int64_t step = count / samples;
  double sum = 0;
  for (int64_t i = 0; i < samples; ++i) sum += double(single(x + i * step));
  return Acc<T>(sum / double(samples));
}

template <class T> Moments moments_of(const T* x, int64_t count, Acc<T> shift) {
  using W = Acc<T>;
  constexpr int L = kLanes<W>, U = 4;
  constexpr int64_t kBlock = 32 * U * L;  // no longer a sum in the accumulation type
  const Vector<W> around = broadcast(shift);
  double sum = 0, squares = 0;
  for (int64_t i = 0; i < count;) {
    const int64_t end = smaller(count, i + kBlock);
    Vector<W> s[U] = {}, q[U] = {};
    for (; i + U * L <= end; i += U * L) {
      GN_UNROLL
      for (int u = 0; u < U; ++u) {
        fetch_ahead(x + i + u * L);
        const Vector<W> d = load<false>(x + i + u * L) - around;
        s[u] += d;
        q[u] += d * d;
      }
    }
    for (; i < end; i += L) {
      const Vector<W> v = i + L <= end ? load<false>(x + i)
                                       : load<true>(x + i, int(end - i), around);
      const Vector<W> d = v - around;
      s[0] += d;
      q[0] += d * d;
    }
    i = smaller(i, end);
    sum += total((s[0] + s[1]) + (s[2] + s[3]));
    squares += total((q[0] + q[1]) + (q[2] + q[3]));
  }
  return {sum, squares};
}

template <class W> void write_statistics(const Problem& p, int64_t group, const Statistics<W>& s) {
  if (s.overflowed) __atomic_store_n(p.overflowed, true, __ATOMIC_RELAXED);
  if (p.mean == nullptr) return;
  static_cast<W*>(p.mean)[group] = s.mean;
  static_cast<W*>(p.rstd)[group] = s.rstd;
  if (p.var != nullptr) static_cast<W*>(p.var)[group] = s.var;
}

// Of a stretch that fits in cache: the second pass, around the mean itself, is rarely needed.
template <class T> Statistics<Acc<T>> statistics_of(const T* x, int64_t count, double eps) {
  using W = Acc<T>;
  const W shift = shift_of(x, count);
  const Statistics<W> s(moments_of(x, count, shift), double(count), shift, eps);
  if (!s.shift_was_poor) return s;
  return Statistics<W>(moments_of(x, count, s.mean), double(count), s.mean, eps);
}

}  // namespace GN_ISA
}  // namespace groupnorm
