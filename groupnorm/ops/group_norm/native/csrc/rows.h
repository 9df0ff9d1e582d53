// Rows of channels_last input (N, S, C), and the two loops over them: chunks run across the channels,
// never over part of a group.
//
// k positions side by side make a row, so that few or odd channels fill whole chunks too. Sums and
// constants are kept for each number of a row, its columns, in the order of the chunks' slots; so
// any number of channels per group takes the same loops.
#pragma once

#include "contiguous.h"

namespace groupnorm {
namespace GN_ISA {

constexpr int kRowsAtOnce = 4;      // in one visit of a chunk of columns
constexpr int64_t kRowsPerSum = 64;  // no longer a sum in the accumulation type

// How a sample's S positions make rows.
template <class T> struct Rows {
  int64_t k, width, padded;  // positions in a row, numbers in it, and in whole chunks
  int64_t count, remainder;  // rows, and numbers left over
  explicit Rows(const Problem& p) : k(1) {
    constexpr int64_t L = kNumbers<T>;
    int64_t fits = 1;
    while (fits * p.C % L != 0) fits *= 2;  // L is a power of two
    while (fits * p.C < 4 * L) fits *= 2;
    if (fits * p.C <= larger<int64_t>(2048, p.C) && 4 * fits <= p.S) k = fits;
    width = k * p.C;
    padded = (width + L - 1) / L * L;
    count = p.S / k;
    remainder = (p.S - count * k) * p.C;
  }
};

// Puts values that are in the order of columns in that of slots, the even numbers of a chunk before the
// odd ones, or back.
template <class T, bool ToSlots, class E> void reorder(E* values, int64_t padded) {
  if (!kInterleaved<T>) return;
  constexpr int L = kNumbers<T>, half = L / 2, n = kLanes<E>;
  const auto first = ToSlots ? every_other<E>(0) : in_turns<E>(0);
  const auto second = ToSlots ? every_other<E>(1) : in_turns<E>(n / 2);
  for (E* v = values; v < values + padded; v += L) {
    E from[L];
    std::memcpy(from, v, sizeof from);
    for (int i = 0; i < half; i += n) {
      const Vector<E> x = load_vector(from + (ToSlots ? 2 * i : i));
      const Vector<E> y = load_vector(from + (ToSlots ? 2 * i + n : half + i));
      store_vector(v + (ToSlots ? i : 2 * i), shuffle(x, y, first));
      store_vector(v + (ToSlots ? half + i : 2 * i + n), shuffle(x, y, second));
    }
  }
}

// The constants of a row's columns; until the statistics are known, `mean` holds shifts near it.
template <class T> struct Columns {
  using W = Acc<T>;
  const Rows<T>& l;
  int64_t step;
  Scratch<W> all;
  W *mean, *scale, *shift, *slope, *constant;

  explicit Columns(const Rows<T>& rows)
      : l(rows), step(l.padded + kLanes<W>), all(5 * step), mean(all), scale(mean + step),
        shift(scale + step), slope(shift + step), constant(slope + step) {}

  GN_INLINE Constants<T> at(int64_t c) const {
    return {load_slots<T>(mean + c), load_slots<T>(scale + c), load_slots<T>(shift + c),
            load_slots<T>(slope + c), load_slots<T>(constant + c)};
  }
  // From the channels' constants, the five from `begin` to `end`, to those of all columns.
  void finish(int64_t C, int begin, int end) {
    for (W* v = all + begin * step; v < all + end * step; v += step) {
      for (int64_t j = 1; j < l.k; ++j) std::memcpy(v + j * C, v, size_t(C) * sizeof(W));
      reorder<T, true>(v, l.padded);
    }
  }
};

// columns[c] = groups[c / D]; whole vectors are stored, of which the next group overwrites the rest.
template <class W> void spread(const W* groups, int64_t G, int64_t D, W* columns) {
  for (int64_t g = 0; g < G; ++g) {
    const Vector<W> v = broadcast(groups[g]);
    for (int64_t d = 0; d < D; d += kLanes<W>) store_vector(columns + g * D + d, v);
  }
}

// ---- the two loops ------------------------------------------------------------------------------

// Sums of terms, each column's: short sums in the order of slots, and long ones in double.
template <class T> struct ColumnSums {
  int64_t padded;
  Acc<T>*first, *second;
  double *firsts, *seconds;

  void clear() {
    std::memset(first, 0, size_t(2 * padded) * sizeof(Acc<T>));
    std::memset(firsts, 0, size_t(2 * padded) * sizeof(double));
  }
  void flush() {
    for (int64_t i = 0; i < 2 * padded; ++i) {
      firsts[i] += double(first[i]);
      first[i] = 0;
    }
  }
};

// One for each part of a sample.
template <class T> struct PartSums {
  int64_t parts, padded;
  Scratch<Acc<T>> sums;
  Scratch<double> totals;
  PartSums(const Rows<T>& l, int64_t parts)
      : parts(parts), padded(l.padded), sums(parts * 2 * padded), totals(parts * 2 * padded) {}

  ColumnSums<T> of(int64_t part) const {
    Acc<T>* s = sums + part * 2 * padded;
    double* t = totals + part * 2 * padded;
    return {padded, s, s + padded, t, t + padded};
  }
  // The sums of all parts, in the order of columns.
  ColumnSums<T> all() const {
    add_parts(totals, parts, 2 * padded);
    reorder<T, false>(static_cast<double*>(totals), 2 * padded);
    return of(0);
  }
};

// Asks for the rows after the next `Count`, line after line as they lie in memory: the processor's own
// prefetching does not follow a loop over columns. Beyond the end of the memory nothing is read.
template <int Count, bool ToWrite = false, class T>
GN_INLINE void fetch_rows(const T* p, int64_t stride, int64_t c, int n) {
  GN_UNROLL
  for (int r = 0; r < Count; ++r)
    __builtin_prefetch(p + Count * stride + c * Count + r * n, ToWrite);
}

// Adds the terms of `Count` rows, `stride` apart; and writes the results of such rows.
template <int Count, class Terms, class T>
GN_INLINE void sum_rows_at_once(const Tensors<T>& t, int64_t stride, int64_t width,
                                const Columns<T>& columns, const ColumnSums<T>& sums) {
  for_chunks<T>(width, [&](auto whole, int64_t c, int n) GN_INLINE_LAMBDA {
    const Constants<T> k = columns.at(c);
    Pair<T> sum{load_slots<T>(sums.first + c), load_slots<T>(sums.second + c)};
    if (Count > 1) {
      fetch_rows<Count>(t.x, stride, c, n);
      if (t.dy) fetch_rows<Count>(t.dy, stride, c, n);
    }
    GN_UNROLL
    for (int r = 0; r < Count; ++r)
      sum = sum + Terms::template at<decltype(whole)::value>(t, r * stride + c, n, k);
    store_slots<T>(sums.first + c, sum.first);
    store_slots<T>(sums.second + c, sum.second);
  });
}
template <int Count, class Result, class T>
GN_INLINE void write_rows_at_once(const Tensors<T>& t, int64_t stride, int64_t width,
                                  const Columns<T>& columns) {
  for_chunks<T>(width, [&](auto whole, int64_t c, int n) GN_INLINE_LAMBDA {
    const Constants<T> k = columns.at(c);
    if (Count > 1) {
      fetch_rows<Count>(t.x, stride, c, n);
      if (t.dy) fetch_rows<Count>(t.dy, stride, c, n);
      if (!t.past_cache) fetch_rows<Count, true>(t.result, stride, c, n);
    }
    for (int r = 0; r < Count; ++r)
      write<decltype(whole)::value, Result>(t, r * stride + c, n, k);
  });
}

template <class Terms, class T>
void sum_columns(Tensors<T> t, int64_t rows, int64_t stride, int64_t width,
                 const Columns<T>& columns, ColumnSums<T> sums) {
  int64_t r = 0;
  while (r < rows) {
    const int64_t stop = smaller(rows, r + kRowsPerSum);
    for (; r + kRowsAtOnce <= stop; r += kRowsAtOnce)
      sum_rows_at_once<kRowsAtOnce, Terms>(t.at(r * stride), stride, width, columns, sums);
    for (; r < stop; ++r) sum_rows_at_once<1, Terms>(t.at(r * stride), stride, width, columns, sums);
    sums.flush();
  }
}
template <class Result, class T>
void write_columns(Tensors<T> t, int64_t rows, int64_t stride, int64_t width,
                   const Columns<T>& columns) {
  int64_t r = 0;
  for (; r + kRowsAtOnce <= rows; r += kRowsAtOnce)
    write_rows_at_once<kRowsAtOnce, Result>(t.at(r * stride), stride, width, columns);
  for (; r < rows; ++r)
    write_rows_at_once<1, Result>(t.at(r * stride), stride, width, columns);
}

// sum_columns over rows [from, to) of a sample and, after the last, over the numbers left over.
template <class T, class Sum>
void sum_sample(const Tensors<T>& t, const Rows<T>& l, int64_t from, int64_t to, Sum sum_columns,
                const Columns<T>& columns, ColumnSums<T> sums) {
  sum_columns(t.at(from * l.width), to - from, l.width, l.width, columns, sums);
  if (from < to && to == l.count && l.remainder)
    sum_columns(t.at(to * l.width), 1, l.width, l.remainder, columns, sums);
}
// The same with write_columns, the last pieces first: they are still in the cache.
template <class T, class Write>
void write_sample(const Tensors<T>& t, const Rows<T>& l, int64_t from, int64_t to,
                  Write write_columns, const Columns<T>& columns) {
  if (from < to && to == l.count && l.remainder)
    write_columns(t.at(to * l.width), 1, l.width, l.remainder, columns);
  const int64_t bytes = kRowsAtOnce * l.width * int64_t(sizeof(T));
  const int64_t piece = kRowsAtOnce * (kPieceBytes / bytes + 1);
  for (int64_t stop = to, start; stop > from; stop = start) {
    start = larger(from, stop - piece);
    write_columns(t.at(start * l.width), stop - start, l.width, l.width, columns);
  }
  if (t.past_cache) finish_stores_past_cache();
}

}  // namespace GN_ISA
}  // namespace groupnorm
