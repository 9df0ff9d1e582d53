// Contiguous input (N, C, S): a group is one stretch of D * S numbers, a channel one row of S, which
// is at least a chunk long. In batch norm, (N, I, C, S), a group is one channel: I stretches of S.
//
// Chunks are counted from the stretch's beginning: no row has a tail of its own, for the chunk in
// which a row ends has the constants of two channels.
#pragma once

#include "statistics.h"

namespace groupnorm {
namespace GN_ISA {

constexpr int64_t kPieceBytes = 256 << 10;  // written front to back
constexpr int64_t kBatchBytes = 24 << 10;   // of groups that stay in the first cache
constexpr int kChunksAtOnce = 4;            // read before one of them is written

// ---- the two loops ------------------------------------------------------------------------------

// They take their arguments by value: what is stored could otherwise change them.

// What a group needs; channel c is that of row c.
template <class T> struct Group {
  using W = Acc<T>;
  const W* weight;  // of the group's channels, or null
  const W* bias;
  W mean, residual_mean, rstd, slope, constant;

  GN_INLINE Constants<T> channel(int64_t c) const {
    const W scale = weight ? rstd * weight[c] : rstd;
    const W shift = (bias ? bias[c] : W(0)) - residual_mean * scale;
    return {filled<T>(mean), filled<T>(scale), filled<T>(shift), filled<T>(slope),
            filled<T>(constant)};
  }
};

// k in the first `count` numbers, the next channel's constants in the others.
template <class T>
GN_INLINE Constants<T> between(int count, Constants<T> k, const Constants<T>& next) {
  k.scale = first<T>(count, k.scale, next.scale);
  k.shift = first<T>(count, k.shift, next.shift);
  return k;
}

// Adds to sums[2 c] and sums[2 c + 1] the terms of channel c's numbers in [from, to).
template <class Terms, class T>
void sum_rows_of(Tensors<T> t, Group<T> g, int64_t S, int64_t from, int64_t to,
                 double* sums) {
  if (from == to) return;
  constexpr int L = kNumbers<T>;
  const Chunk<T> zero = filled<T>(0);
  Pair<T> carried{zero, zero};  // from the chunk in which the row before ended
  int64_t i = from, c = from / S;
  for (Constants<T> k = g.channel(c), next = k; c * S < to; ++c, k = next) {
    const int64_t end = smaller(to, (c + 1) * S);
    if (end < to) next = g.channel(c + 1);
    Pair<T> row = carried;
    carried = {zero, zero};
    while (i + L <= end) {
      row = row + add_up<Terms>(t, i, smaller(end, i + kBlock<T>), k);
      if (i + L <= end) {
        add_totals(sums + 2 * c, row.first, row.second);
        row = {zero, zero};
      }
    }
    if (i < end) {
      const int n = int(smaller<int64_t>(L, to - i)), inside = int(end - i);
      const Constants<T> both = between(inside, k, next);
      const Pair<T> terms = n == L ? Terms::template at<true>(t, i, L, both)
                                   : Terms::template at<false>(t, i, n, both);
      row.first = row.first + first<T>(inside, terms.first, zero);
      row.second = row.second + first<T>(inside, terms.second, zero);
      carried = {first<T>(inside, zero, terms.first), first<T>(inside, zero, terms.second)};
      i += n;
    }
    add_totals(sums + 2 * c, row.first, row.second);
  }
}

// Writes the results of numbers [from, to), the last pieces first: they are still in the cache.
template <class Result, class T>
void write_rows_of(Tensors<T> t, Group<T> g, int64_t S, int64_t from, int64_t to) {
  constexpr int L = kNumbers<T>;
  constexpr int64_t kPiece = kPieceBytes / int64_t(sizeof(T));
  for (int64_t stop = to, start; stop > from; stop = start) {
    start = from + (stop - 1 - from) / kPiece * kPiece;
    int64_t i = start, c = start / S;
    for (Constants<T> k = g.channel(c), next = k; i < stop; ++c, k = next) {
      const int64_t end = smaller(stop, (c + 1) * S);
      if (end < stop) next = g.channel(c + 1);
      for (; i + kChunksAtOnce * L <= end; i += kChunksAtOnce * L)
        write_chunks<kChunksAtOnce, Result>(t, i, k);
      for (; i + L <= end; i += L) write<true, Result>(t, i, L, k);
      if (i >= end) continue;
      const int n = int(smaller<int64_t>(L, stop - i));
      const Constants<T> both = between(int(end - i), k, next);
      if (n == L) write<true, Result>(t, i, L, both);
      else write<false, Result>(t, i, n, both);
      i += n;
    }
  }
}

// ---- groups -------------------------------------------------------------------------------------

// Where group i lies: I stretches of `length` numbers, `stride` apart.
struct Groups {
  int64_t D, count, length, stride, parts, batch;
  Groups(const Problem& p, int64_t bytes_each)
      : D(p.C / p.G), count(p.N * p.G), length(D * p.S), stride(p.C * p.S),
        parts(p.I > 1 ? 1 : parts_for(p, count, length)),
        batch(parts > 1 ? 1 : larger<int64_t>(
            1, smaller<int64_t>(16, kBatchBytes / (p.I * length * bytes_each)))) {}
  GN_INLINE int64_t first(const Problem& p, int64_t i) const {
    return p.I > 1 ? (i / p.C * p.I * p.C + i % p.C) * p.S : i * length;
  }
};

template <class T> Group<T> group_of(const Problem& p, const Groups& groups, int64_t i) {
  using W = Acc<T>;
  const int64_t c = i % p.G * groups.D;
  return {advance(static_cast<const W*>(p.weight), c), advance(static_cast<const W*>(p.bias), c),
          0, 0, 0, 0, 0};
}

template <class T, class Write>
void write_group(const Problem& p, const Groups& groups, const Tensors<T>& t, const Group<T>& g,
                 Write write_rows) {
  over_parts(p, groups.parts, groups.length, 64, [&](int64_t, int64_t from, int64_t to) {
    for (int64_t r = p.I - 1; r >= 0; --r) write_rows(t.at(r * groups.stride), g, p.S, from, to);
    if (t.past_cache) finish_stores_past_cache();
  });
}

// ---- forward ------------------------------------------------------------------------------------

template <class T, class Write> void forward_contiguous(const Problem& p, Write write_rows) {
  const Groups groups(p, sizeof(T));
  Tensors<T> all(p);
  all.past_cache = goes_past_cache<T>(p, groups.length);
  over_units(p, groups.count, groups.parts, p.I * groups.length, [&](int64_t begin, int64_t end) {
    Scratch<Moments> moments(groups.batch * groups.parts);
    for (int64_t b = begin; b < end; b += groups.batch) {
      const int64_t stop = smaller(end, b + groups.batch);
      for (int64_t i = b; i < stop; ++i) {
        const T* x = all.x + groups.first(p, i);
        over_parts(p, groups.parts, groups.length, 64, [&](int64_t k, int64_t from, int64_t to) {
          Moments m{};
          for (int64_t r = 0; r < p.I; ++r) add_moments(x + r * groups.stride + from, to - from, m);
          moments[(i - b) * groups.parts + k] = m;
        });
      }
      for (int64_t i = b; i < stop; ++i) {
        Moments m = moments[(i - b) * groups.parts];
        for (int64_t k = 1; k < groups.parts; ++k) m.merge(moments[k]);
        const Statistics<Acc<T>> s = statistics_of<Acc<T>>(m, p.eps);
        write_statistics(p, i, s);
        if (!m.is_finite()) continue;
        Group<T> g = group_of<T>(p, groups, i);
        g.mean = s.mean;
        g.residual_mean = s.residual_mean;
        g.rstd = s.rstd;
        const Tensors<T> t = all.at(groups.first(p, i));
        write_group(p, groups, t, g, write_rows);
      }
    }
  });
}

// ---- backward -----------------------------------------------------------------------------------

template <class T, class Sum, class Write>
void backward_contiguous(const Problem& p, Sum sum_terms, Write write_rows) {
  using W = Acc<T>;
  const Groups groups(p, 2 * sizeof(T));
  const int64_t D = groups.D;
  Tensors<T> all(p);
  all.past_cache = goes_past_cache<T>(p, groups.length);
  Scratch<W> dweight(p.N * p.C), dbias(p.N * p.C);
  const int64_t padded = groups.length + kNumbers<T>;
  const bool keeps = groups.parts == 1 && keeps_in_scratch<T>(p, groups.batch * padded);
  over_units(p, groups.count, groups.parts, p.I * groups.length, [&](int64_t begin, int64_t end) {
    Scratch<double> sums(groups.batch * groups.parts * 2 * D);
    Scratch<W> scratch(keeps ? groups.batch * padded : 0);
    for (int64_t b = begin; b < end; b += groups.batch) {
      const int64_t stop = smaller(end, b + groups.batch);
      auto tensors = [&](int64_t i) {
        Tensors<T> t = all.at(groups.first(p, i));
        if (keeps) t.kept = scratch + (i - b) * padded;
        return t;
      };
      auto group = [&](int64_t i) {
        Group<T> g = group_of<T>(p, groups, i);
        const Centre<W> centre(p, i);
        g.mean = centre.mean;
        g.residual_mean = centre.residual_mean;
        g.rstd = centre.rstd;
        return g;
      };
      for (int64_t i = b; i < stop; ++i) {
        const Tensors<T> t = tensors(i);
        const Group<T> g = group(i);
        over_parts(p, groups.parts, groups.length, 64, [&](int64_t k, int64_t from, int64_t to) {
          double* own = sums + ((i - b) * groups.parts + k) * 2 * D;
          for (int64_t d = 0; d < 2 * D; ++d) own[d] = 0;
          for (int64_t r = 0; r < p.I; ++r)
            sum_terms(t.at(r * groups.stride), g, p.S, from, to, own);
        });
      }
      for (int64_t i = b; i < stop; ++i) {
        const Tensors<T> t = tensors(i);
        Group<T> g = group(i);
        double* own = sums + (i - b) * groups.parts * 2 * D;
        add_parts(own, groups.parts, 2 * D);
        double a = 0, a_centred = 0;
        for (int64_t d = 0; d < D; ++d) {
          const double w = g.weight ? double(g.weight[d]) : 1.0;
          own[2 * d + 1] -= double(g.residual_mean) * own[2 * d];
          a += w * own[2 * d];
          a_centred += w * own[2 * d + 1];
          dbias[i * D + d] = W(own[2 * d]);
          dweight[i * D + d] = W(own[2 * d + 1] * double(g.rstd));
        }
        const GroupGradient<W> gradient(a, a_centred, double(p.I * groups.length), g.rstd,
                                        g.residual_mean);
        g.slope = gradient.slope;
        g.constant = gradient.constant;
        write_group(p, groups, t, g, write_rows);
      }
    }
  });
  sum_rows<W>(p, p.N, p.C, 1, dweight, p.dweight);
  sum_rows<W>(p, p.N, p.C, 1, dbias, p.dbias);
}

}  // namespace GN_ISA
}  // namespace groupnorm
