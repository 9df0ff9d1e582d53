// Contiguous input with few positions (down to none: linear layers): a channel's row is no whole chunk,
// so weight and bias are laid out number by number, (C * S), and a group is read as one stretch.
#pragma once

#include "contiguous.h"

namespace groupnorm {
namespace GN_ISA {

// Group g of a sample: `length` numbers from `first` on.
template <class T> struct ShortGroup {
  using W = Acc<T>;
  int64_t first, length;
  const W *weight, *bias;  // number by number, with zeros up to a whole chunk behind the last
  Constants<T> k;

  ShortGroup(const Problem& p, int64_t g, W mean, W rstd)
      : first(g * (p.C / p.G * p.S)), length(p.C / p.G * p.S),
        weight(static_cast<const W*>(p.weight) + first), bias(static_cast<const W*>(p.bias) + first) {
    k.mean = filled<T>(mean);
    k.scale = filled<T>(rstd);
  }
  // `left_over` is what the rounding of the mean left.
  GN_INLINE Constants<T> at(int64_t i, Chunk<T> left_over) const {
    Constants<T> here = k;
    here.scale = k.scale * load_numbers<T>(weight + i);
    here.shift = load_numbers<T>(bias + i) - left_over * here.scale;
    return here;
  }
};

template <class Result, class T>
GN_INLINE void write_short(Tensors<T> t, const ShortGroup<T>& g, Acc<T> residual_mean) {
  const Chunk<T> left_over = filled<T>(residual_mean);
  for_chunks<T>(g.length, [&](auto whole, int64_t i, int n) GN_INLINE_LAMBDA {
    write<decltype(whole)::value, Result>(t, i, n, g.at(i, left_over));
  });
}

template <class T, Activation A> void forward_short_rows(const Problem& p) {
  using W = Acc<T>;
  const int64_t size = p.C * p.S;
  const Tensors<T> all(p);
  over_units(p, p.N, 1, size, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin * p.G; i < end * p.G; ++i) {
      const int64_t offset = i / p.G * size + i % p.G * (size / p.G);
      Moments m{};
      add_moments(all.x + offset, size / p.G, m);
      const Statistics<W> s = statistics_of<W>(m, p.eps);
      write_statistics(p, i, s);
      if (m.is_finite())
        write_short<Output<T, A>>(all.at(offset), ShortGroup<T>(p, i % p.G, s.mean, s.rstd),
                                  s.residual_mean);
    }
  });
}

// One group; adds dz and dz * xhat, number by number, to dbias and dweight.
template <class T, Activation A>
GN_INLINE void short_gradient(Tensors<T> t, ShortGroup<T> g, Centre<Acc<T>> centre, Acc<T>* dweight,
                              Acc<T>* dbias) {
  using W = Acc<T>;
  const Chunk<T> zero = filled<T>(0), r = filled<T>(centre.rstd);
  const Chunk<T> left_over = filled<T>(centre.residual_mean);
  Pair<T> sums{zero, zero};
  for_chunks<T>(g.length, [&](auto whole, int64_t i, int n) GN_INLINE_LAMBDA {
    Pair<T> terms = Gradient<T, A>::template at<decltype(whole)::value>(t, i, n, g.at(i, left_over));
    terms.second = terms.second - terms.first * left_over;
    const Chunk<T> w = load_numbers<T>(g.weight + i);
    Pair<T> weighted{terms.first * w, terms.second * w};
    terms.second = terms.second * r;
    if constexpr (!decltype(whole)::value) {  // the next group may not be finite, nor this one
      terms = {first<T>(n, terms.first, zero), first<T>(n, terms.second, zero)};
      weighted = {first<T>(n, weighted.first, zero), first<T>(n, weighted.second, zero)};
    }
    sums = sums + weighted;
    store_numbers<T>(dbias + i, load_numbers<T>(dbias + i) + terms.first);
    store_numbers<T>(dweight + i, load_numbers<T>(dweight + i) + terms.second);
  });
  double totals[2] = {0, 0};
  add_totals(totals, sums.first, sums.second);
  const GroupGradient<W> gradient(totals[0], totals[1], double(g.length), centre.rstd,
                                  centre.residual_mean);
  g.k.slope = filled<T>(gradient.slope);
  g.k.constant = filled<T>(gradient.constant);
  write_short<InputGradient<T, A>>(t, g, centre.residual_mean);
}

template <class T, Activation A> void backward_short_rows(const Problem& p) {
  using W = Acc<T>;
  const int64_t size = p.C * p.S, length = size / p.G, stride = size + kNumbers<T>;
  const int64_t samples = samples_per_sum(p), units = (p.N + samples - 1) / samples;
  const Tensors<T> all(p);
  Scratch<W> dweight(units * stride), dbias(units * stride);
  const bool keeps = keeps_in_scratch<T>(p, length);
  over_units(p, units, 1, samples * size, [&](int64_t begin, int64_t end) {
    Scratch<W> scratch(keeps ? length : 0);
    for (int64_t u = begin; u < end; ++u) {
      W *dw = dweight + u * stride, *db = dbias + u * stride;
      std::memset(dw, 0, size_t(stride) * sizeof(W));
      std::memset(db, 0, size_t(stride) * sizeof(W));
      for (int64_t i = u * samples * p.G; i < smaller(p.N, (u + 1) * samples) * p.G; ++i) {
        const int64_t first = i % p.G * length;
        Tensors<T> t = all.at(i / p.G * size + first);
        if (keeps) t.kept = scratch;
        const Centre<W> centre(p, i);
        short_gradient<T, A>(t, ShortGroup<T>(p, i % p.G, centre.mean, centre.rstd), centre,
                             dw + first, db + first);
      }
    }
  });
  sum_rows<W>(p, units, stride, p.S, dweight, p.dweight);
  sum_rows<W>(p, units, stride, p.S, dbias, p.dbias);
}

}  // namespace GN_ISA
}  // namespace groupnorm
