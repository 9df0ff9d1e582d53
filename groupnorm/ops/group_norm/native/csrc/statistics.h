// Mean and variance of numbers, in one pass around a shift near the mean.
#pragma once

#include "terms.h"

namespace groupnorm {
namespace GN_ISA {

// Count, mean and sum of squared distances from the mean of some numbers. The mean has twice the digits
// of a double, `mean_low` being what `mean` left over.
struct Moments {
  double count, mean, mean_low, squares;

  // From sums of distances from a shift, and of their squares.
  static GN_INLINE Moments around(double shift, const double* sums, double count) {
    const double offset = sums[0] / count, centred = sums[1] - sums[0] * offset;
    Moments m{count, shift, 0, centred < 0 ? 0 : centred};
    m.move(offset);
    return m;
  }
  GN_INLINE void move(double step) {
    const double moved = mean + step;
    mean_low += step - (moved - mean);
    mean = moved;
  }
  GN_INLINE bool is_finite() const { return fabs(squares) < HUGE_VAL; }
  // Chan's formula.
  GN_INLINE void merge(const Moments& other) {
    if (other.count == 0) return;
    if (count == 0) return void(*this = other);
    const double all = count + other.count, delta = (other.mean - mean) + (other.mean_low - mean_low);
    squares += other.squares + delta * delta * (count * other.count / all);
    move(delta * (other.count / all));
    count = all;
  }
};

// Whether sums around a shift lost digits: those of squares are over four times those around the mean.
GN_INLINE bool is_poor(const double* sums, double count) {
  return sums[0] * sums[0] > 0.75 * count * sums[1];
}

// The mean as its nearest number of the accumulation type, what is left of it, the biased variance
// and 1 / sqrt(variance + eps), which is NaN where the sum of squares is not finite.
template <class W> struct Statistics { W mean, residual_mean, var, rstd; };

template <class W> GN_INLINE Statistics<W> statistics_of(const Moments& m, double eps) {
  const double variance = m.squares > 0 ? m.squares / m.count : 0.0;
  const W mean = W(m.mean);
  const W rstd = m.is_finite() ? W(1.0 / sqrt(variance + eps)) : W(NAN);
  return {mean, W((m.mean - double(mean)) + m.mean_low), W(variance), rstd};
}

// What the forward pass has written.
template <class W> struct Centre {
  W mean, residual_mean, rstd;
  Centre(const Problem& p, int64_t group)
      : mean(static_cast<const W*>(p.mean)[group]),
        residual_mean(p.residual_mean ? static_cast<const W*>(p.residual_mean)[group] : W(0)),
        rstd(static_cast<const W*>(p.rstd)[group]) {}
};

template <class W>
void write_statistics(const Problem& p, int64_t group, const Statistics<W>& s) {
  if (s.rstd != s.rstd) __atomic_store_n(p.overflowed, true, __ATOMIC_RELAXED);
  if (p.mean == nullptr) return;
  static_cast<W*>(p.mean)[group] = s.mean;
  static_cast<W*>(p.rstd)[group] = s.rstd;
  if (p.residual_mean != nullptr) static_cast<W*>(p.residual_mean)[group] = s.residual_mean;
  if (p.var != nullptr) static_cast<W*>(p.var)[group] = s.var;
}

// ---- of a stretch of memory --------------------------------------------------------------------

// So many numbers are summed in the accumulation type, at most 128 in one lane of one sum.
template <class T> constexpr int64_t kBlock = 256 * kLanes<Acc<T>>;

// The sum of the terms of whole chunks in [i, end), a block at most; i moves to the first number
// that is left.
template <class Terms, class T>
GN_INLINE Pair<T> add_up(const Tensors<T>& t, int64_t& i, int64_t end, const Constants<T>& k) {
  constexpr int L = kNumbers<T>, U = kIsHalf<T> ? Terms::kChunks / 2 : Terms::kChunks;
  const Pair<T> zero{filled<T>(0), filled<T>(0)};
  Pair<T> sums[U];
  GN_UNROLL
  for (int u = 0; u < U; ++u) sums[u] = zero;
  for (; i + U * L <= end; i += U * L)
    GN_UNROLL
    for (int u = 0; u < U; ++u) {
      __builtin_prefetch(reinterpret_cast<const char*>(t.x + i + u * L) + 1024);
      sums[u] = sums[u] + Terms::template at<true>(t, i + u * L, L, k);
    }
  for (; i + L <= end; i += L) sums[0] = sums[0] + Terms::template at<true>(t, i, L, k);
  GN_UNROLL
  for (int u = 1; u < U; ++u) sums[0] = sums[0] + sums[u];
  return sums[0];
}

// Adds the sums of a block's distances from the shift, and of their squares, to totals.
template <class T>
GN_INLINE void add_block(const T* x, int64_t count, Acc<T> shift, double* totals) {
  Tensors<T> t;
  t.x = x;
  Constants<T> k{};
  k.mean = filled<T>(shift);
  int64_t i = 0;
  Pair<T> sums = add_up<Moment<T>>(t, i, count, k);
  if (i < count) sums = sums + Moment<T>::template at<false>(t, i, int(count - i), k);
  add_totals(totals, sums.first, sums.second);
}

// The mean of four chunks, or where there are none the first number.
template <class T> GN_INLINE Acc<T> shift_of(const T* x, int64_t count) {
  const int64_t step = count / 4;
  if (step >= kNumbers<T>) {
    const Chunk<T> sum = (load(x) + load(x + step)) + (load(x + 2 * step) + load(x + 3 * step));
    double totals[2] = {0, 0};
    add_totals(totals, sum, sum);
    return Acc<T>(totals[0] / (4 * kNumbers<T>));
  }
  Acc<T> values[kNumbers<T>];
  store_slots<T>(values, load_first(x, 1, filled<T>(0)));
  return values[0];
}

// Adds `count` numbers to m. All blocks have one shift until it is poor for one of them; from then on
// it is the mean so far. Where that is far off, so is the block from what came before, and the
// squared distance outweighs the digits lost.
template <class T> void add_moments(const T* x, int64_t count, Moments& m) {
  if (count == 0) return;
  Acc<T> shift = m.count > 0 ? Acc<T>(m.mean) : shift_of(x, smaller(kBlock<T>, count));
  double totals[2] = {0, 0};
  int64_t begin = 0;  // of the blocks that are in the totals
  auto merge = [&](int64_t end) {
    if (end > begin) m.merge(Moments::around(double(shift), totals, double(end - begin)));
    totals[0] = totals[1] = 0;
    begin = end;
  };
  for (int64_t i = 0; i < count; i += kBlock<T>) {
    const int64_t n = smaller(kBlock<T>, count - i);
    double block[2] = {0, 0};
    add_block(x + i, n, shift, block);
    if (is_poor(block, double(n))) {
      merge(i);
      if (m.count == 0) {
        shift = Acc<T>(double(shift) + block[0] / double(n));
        block[0] = block[1] = 0;
        add_block(x + i, n, shift, block);
      }
      totals[0] = block[0], totals[1] = block[1];
      merge(i + n);
      shift = Acc<T>(m.mean);
    } else {
      totals[0] += block[0], totals[1] += block[1];
    }
  }
  merge(count);
}

}  // namespace GN_ISA
}  // namespace groupnorm
