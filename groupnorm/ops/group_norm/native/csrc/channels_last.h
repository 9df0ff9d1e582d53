// channels_last input (N, S, C), forward and backward: sums of each column, folded into channels and
// groups, and constants of the groups, spread over the columns.
#pragma once

#include "rows.h"

namespace groupnorm {
namespace GN_ISA {

// Mean, scale and shift of the columns, from mean, residual mean (or null) and rstd of the groups.
template <class T>
void set_columns(const Problem& p, const Acc<T>* means, const Acc<T>* residual_means,
                 const Acc<T>* rstds, Columns<T>& columns) {
  using W = Acc<T>;
  const int64_t D = p.C / p.G;
  const W *weight = static_cast<const W*>(p.weight), *bias = static_cast<const W*>(p.bias);
  spread(means, p.G, D, columns.mean);
  if (residual_means) spread(residual_means, p.G, D, columns.shift);
  spread(rstds, p.G, D, columns.scale);
  for (int64_t c = 0; c < p.C; ++c) {
    columns.scale[c] *= weight ? weight[c] : W(1);
    const W left_over = residual_means ? columns.shift[c] * columns.scale[c] : W(0);
    columns.shift[c] = (bias ? bias[c] : W(0)) - left_over;
  }
  columns.finish(p.C, 0, 3);
}

// ---- forward ------------------------------------------------------------------------------------

// A shift for each column: the mean of a few rows.
template <class T> void shifts_of(const T* x, const Rows<T>& l, Acc<T>* shifts) {
  const int64_t step = l.count / 4 * l.width;
  for_chunks<T>(l.width, [&](auto whole, int64_t c, int n) GN_INLINE_LAMBDA {
    auto row = [&](int64_t r) GN_INLINE_LAMBDA {
      return load_some<decltype(whole)::value>(x + r * step + c, n, filled<T>(0));
    };
    Chunk<T> shift = row(0);
    if (l.count >= 4)
      shift = ((shift + row(1)) + (row(2) + row(3))) * filled<T>(Acc<T>(0.25));
    store_slots<T>(shifts + c, shift);
  });
}

// From the columns' sums around `columns.mean` to the groups' moments. Where that was poor, a better
// one takes its place, and the result is false.
template <class T>
bool fold_moments(const Problem& p, const Rows<T>& l, const PartSums<T>& parts,
                  Columns<T>& columns, double* offsets, Moments* moments) {
  using W = Acc<T>;
  const int64_t D = p.C / p.G;
  const ColumnSums<T> sums = parts.all();
  double *squares = sums.seconds, *raw = sums.firsts;
  W* shifts = columns.mean;
  reorder<T, false>(shifts, l.padded);
  for (int64_t i = 0; i < l.width; ++i) {
    const double n = double(l.count + (i < l.remainder));
    const double sum = sums.firsts[i], around_shift = sums.seconds[i];
    const double centred = around_shift - sum * (sum / n);
    offsets[i] = sum / n;
    squares[i] = centred < 0 ? 0 : centred;
    raw[i] = around_shift;
  }
  bool good = true;
  for (int64_t g = 0; g < p.G; ++g) {
    const double shift = double(shifts[g * D]);
    double sum = 0, centred = 0, around_shifts = 0;  // of the columns' distances from that shift
    for (int64_t j = 0; j < l.k; ++j)
      for (int64_t i = j * p.C + g * D; i < j * p.C + (g + 1) * D; ++i) {
        const double n = double(l.count + (i < l.remainder));
        const double d = (double(shifts[i]) - shift) + offsets[i];
        sum += n * d;
        centred += squares[i] + n * d * d;
        around_shifts += raw[i];
      }
    const double count = double(D * p.S);
    const double sums_around[2] = {sum, centred};
    moments[g] = Moments::around(shift, sums_around, count);
    if (around_shifts > 4 * moments[g].squares) good = false;
  }
  if (good) return true;
  for (int64_t i = 0; i < l.width; ++i) shifts[i] = W(double(shifts[i]) + offsets[i]);
  reorder<T, true>(shifts, l.padded);
  return false;
}

// From the groups' moments of sample n to its statistics and the columns' constants; whether all are
// finite.
template <class T>
bool finish_statistics(const Problem& p, int64_t n, const Moments* moments, Columns<T>& columns,
                       Acc<T>* of_groups) {
  using W = Acc<T>;
  bool finite = true;
  W *means = of_groups, *residual_means = means + p.G, *rstds = residual_means + p.G;
  for (int64_t g = 0; g < p.G; ++g) {
    const Statistics<W> s = statistics_of<W>(moments[g], p.eps);
    write_statistics(p, n * p.G + g, s);
    finite = finite && moments[g].is_finite();
    means[g] = s.mean;
    residual_means[g] = s.residual_mean;
    rstds[g] = s.rstd;
  }
  set_columns(p, means, residual_means, rstds, columns);
  return finite;
}

template <class T, class Sum, class Write>
void forward_channels_last(const Problem& p, Sum sum_moments, Write write) {
  const Rows<T> l(p);
  Tensors<T> all(p);
  all.past_cache = goes_past_cache<T>(p, l.width) && goes_past_cache<T>(p, l.remainder);
  const int64_t size = p.S * p.C, parts = parts_for(p, p.N, size);
  const bool in_place = p.y == p.x || p.y == p.residual;
  over_units(p, p.N, parts, size, [&](int64_t begin, int64_t end) {
    PartSums<T> sums(l, parts);
    Columns<T> columns(l);
    Scratch<double> offsets(l.width);
    Scratch<Moments> moments(p.G);
    Scratch<Acc<T>> of_groups(3 * p.G);
    for (int64_t n = begin; n < end; ++n) {
      const Tensors<T> t = all.at(n * size);
      shifts_of(t.x, l, columns.mean);
      for (int tries = 0; tries < 2; ++tries) {
        over_parts(p, parts, l.count, kRowsAtOnce, [&](int64_t k, int64_t from, int64_t to) {
          sums.of(k).clear();
          sum_sample(t, l, from, to, sum_moments, columns, sums.of(k));
        });
        if (fold_moments(p, l, sums, columns, offsets, moments)) break;
      }
      const bool finite = finish_statistics(p, n, moments, columns, of_groups);
      if (!finite && in_place) {
        for (int64_t g = 0; g < p.G; ++g) static_cast<Acc<T>*>(p.rstd)[n * p.G + g] = Acc<T>(NAN);
        continue;
      }
      over_parts(p, parts, l.count, kRowsAtOnce, [&](int64_t, int64_t from, int64_t to) {
        write_sample(t, l, from, to, write, columns);
      });
    }
  });
}

// ---- backward -----------------------------------------------------------------------------------

// From the columns' sums of sample n to the gradients of the parameters, which are added up, and
// the constants of dx.
template <class T>
void finish_gradients(const Problem& p, int64_t n, const PartSums<T>& parts, Columns<T>& columns,
                      Acc<T>* of_groups, Acc<T>* dweight, Acc<T>* dbias) {
  using W = Acc<T>;
  const int64_t D = p.C / p.G;
  const W* weight = static_cast<const W*>(p.weight);
  const ColumnSums<T> sums = parts.all();
  add_parts(sums.firsts, columns.l.k, p.C);
  add_parts(sums.seconds, columns.l.k, p.C);
  W *slopes = of_groups, *constants = slopes + p.G, *rstds = constants + p.G;
  for (int64_t g = 0; g < p.G; ++g) {
    const Centre<W> centre(p, n * p.G + g);
    for (int64_t c = g * D; c < (g + 1) * D; ++c)
      sums.seconds[c] -= double(centre.residual_mean) * sums.firsts[c];
    auto group_sum = [&](const double* values) {
      return sum_of(g * D, (g + 1) * D, [&](int64_t c) GN_INLINE_LAMBDA {
        return weight ? double(weight[c]) * values[c] : values[c];
      });
    };
    const double a = group_sum(sums.firsts), a_centred = group_sum(sums.seconds);
    const GroupGradient<W> gradient(a, a_centred, double(D * p.S), centre.rstd,
                                    centre.residual_mean);
    slopes[g] = gradient.slope;
    constants[g] = gradient.constant;
    rstds[g] = centre.rstd;
  }
  spread<W>(rstds, p.G, D, columns.slope);
  for (int64_t c = 0; c < p.C; ++c) {
    dbias[c] += W(sums.firsts[c]);
    dweight[c] += W(sums.seconds[c] * double(columns.slope[c]));
  }
  spread<W>(slopes, p.G, D, columns.slope);
  spread<W>(constants, p.G, D, columns.constant);
  columns.finish(p.C, 3, 5);
}

template <class T, class Sum, class Write>
void backward_channels_last(const Problem& p, Sum sum_terms, Write write) {
  using W = Acc<T>;
  const Rows<T> l(p);
  Tensors<T> all(p);
  all.past_cache = goes_past_cache<T>(p, l.width) && goes_past_cache<T>(p, l.remainder);
  const int64_t size = p.S * p.C, parts = parts_for(p, p.N, size);
  const int64_t samples = samples_per_sum(p);
  const int64_t units = (p.N + samples - 1) / samples;
  Scratch<W> dweight(units * p.C), dbias(units * p.C);
  // a chunk of slots would reach into the next row where rows are no whole chunks
  const bool keeps = parts == 1 && l.width == l.padded && keeps_in_scratch<T>(p, size);
  over_units(p, units, parts, samples * size, [&](int64_t begin, int64_t end) {
    PartSums<T> sums(l, parts);
    Columns<T> columns(l);
    Scratch<W> of_groups(3 * p.G), scratch(keeps ? size : 0);
    for (int64_t u = begin; u < end; ++u) {
      W *dw = dweight + u * p.C, *db = dbias + u * p.C;
      std::memset(dw, 0, size_t(p.C) * sizeof(W));
      std::memset(db, 0, size_t(p.C) * sizeof(W));
      for (int64_t n = u * samples; n < smaller(p.N, (u + 1) * samples); ++n) {
        Tensors<T> t = all.at(n * size);
        if (keeps) t.kept = scratch;
        const auto of_sample = [&](const void* statistics) {
          return advance(static_cast<const W*>(statistics), n * p.G);
        };
        set_columns<T>(p, of_sample(p.mean), of_sample(p.residual_mean), of_sample(p.rstd), columns);
        over_parts(p, parts, l.count, kRowsAtOnce, [&](int64_t k, int64_t from, int64_t to) {
          sums.of(k).clear();
          sum_sample(t, l, from, to, sum_terms, columns, sums.of(k));
        });
        finish_gradients(p, n, sums, columns, of_groups, dw, db);
        over_parts(p, parts, l.count, kRowsAtOnce, [&](int64_t, int64_t from, int64_t to) {
          write_sample(t, l, from, to, write, columns);
        });
      }
    }
  });
  sum_rows<W>(p, units, p.C, 1, dweight, p.dweight);
  sum_rows<W>(p, units, p.C, 1, dbias, p.dbias);
}

}  // namespace GN_ISA
}  // namespace groupnorm
