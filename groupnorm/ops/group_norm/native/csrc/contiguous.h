// Contiguous input (N, C, S): a group is one stretch of D * S numbers, a channel one row of S.
#pragma once

#include "short_rows.h"

namespace groupnorm {
namespace GN_ISA {

// ---- forward ------------------------------------------------------------------------------------

// Numbers [from, to) of a group.
template <class T, Activation A>
void apply_rows(const GroupForward<T>& g, int64_t S, int64_t from, int64_t to) {
  using W = Acc<T>;
  for (int64_t c = from / S; from < to; ++c) {
    const int64_t end = smaller(to, (c + 1) * S);
    const W scale = g.weight ? g.s.rstd * g.weight[c] : g.s.rstd;
    const W shift = (g.bias ? g.bias[c] : W(0)) - g.s.residual_mean * scale;
    const Normalize<W> normalize{broadcast(g.s.mean), broadcast(scale), broadcast(shift)};
    const T* x = g.x + from;
    const T* residual = advance(g.residual, from);
    T* y = g.y + from;
    for_vectors<W>(end - from, [&](auto partial, int64_t i, int n) GN_INLINE_LAMBDA {
      constexpr bool P = decltype(partial)::value;
      fetch_ahead(x + i);
      const Vector<W> z =
          normalize.template operator()<P>(load<P>(x + i, n), advance(residual, i), n);
      store<P>(y + i, value_of<A>(z), n);
    });
    from = end;
  }
}

// `apply`: apply_rows, or apply_short_rows where rows are short.
template <class T, class F> void forward_contiguous(const Problem& p, F apply) {
  using W = Acc<T>;
  const int64_t D = p.C / p.G, length = D * p.S, groups = p.N * p.G;
  const bool is_short = p.S < kShortRow;
  const Spread<W> spread(p);
  const W* weights = is_short ? spread.weight : static_cast<const W*>(p.weight);
  const W* biases = is_short ? spread.bias : static_cast<const W*>(p.bias);
  const T* all = static_cast<const T*>(p.x);

  auto group = [&](int64_t i, const Statistics<W>& s) {
    write_statistics(p, i, s);
    const int64_t first = i * length, parameter = i % p.G * (is_short ? length : D);
    return GroupForward<T>{all + first,
                           advance(static_cast<const T*>(p.residual), first),
                           static_cast<T*>(p.y) + first,
                           advance(weights, parameter),
                           advance(biases, parameter),
                           s};
  };
  const int64_t parts = parts_for(p, groups, length);
  if (parts == 1) {
    // Small groups go several at a time: their statistics do not wait for one another.
    const int64_t batch = larger<int64_t>(1, smaller<int64_t>(8, 8192 / length));
    parallel(p, groups, grain_for(length), [&](int64_t begin, int64_t end) {
      Scratch<Statistics<W>> s(batch);
      for (int64_t first = begin; first < end; first += batch) {
        const int64_t count = smaller(batch, end - first);
        for (int64_t i = 0; i < count; ++i)
          s[i] = statistics_of(all + (first + i) * length, length, p.eps);
        for (int64_t i = 0; i < count; ++i) apply(group(first + i, s[i]), p.S, 0, length);
      }
    });
    return;
  }
  // Fewer groups than threads: each is split, and the parts' sums are added in their order.
  Scratch<Moments> partial(parts);
  for (int64_t i = 0; i < groups; ++i) {
    const T* x = all + i * length;
    auto statistics = [&](W shift) {
      parallel_parts(p, parts, length, [&](int64_t k, int64_t from, int64_t to) {
        partial[k] = moments_of(x + from, to - from, shift);
      });
      Moments total;
      for (int64_t k = 0; k < parts; ++k) total += partial[k];
      return Statistics<W>(total, double(length), shift, p.eps);
    };
    Statistics<W> s = statistics(shift_of(x, length));
    if (s.shift_was_poor) s = statistics(s.mean);
    const GroupForward<T> g = group(i, s);
    parallel_parts(p, parts, length, [&](int64_t, int64_t from, int64_t to) {
      apply(g, p.S, from, to);
    });
  }
}

// ---- backward -----------------------------------------------------------------------------------

// Adds, for numbers [from, to) of a group, each channel's sums of dz and of dz * (x - mean) to
// `sums` and `products`.
template <class T, Activation A>
void add_row_gradients(const GroupBackward<T>& g, int64_t S, int64_t from, int64_t to,
                       double* sums, double* products) {
  using W = Acc<T>;
  constexpr int L = kLanes<W>, U = is_costly(A) ? 2 : 4;
  const Vector<W> mean = broadcast(g.mean);
  for (int64_t c = from / S; from < to; ++c) {
    const int64_t end = smaller(to, (c + 1) * S);
    const W scale = g.weight ? g.rstd * g.weight[c] : g.rstd;
    const Normalize<W> normalize{mean, broadcast(scale), broadcast(g.bias ? g.bias[c] : W(0))};
    double sum = 0, product = 0;
    while (from < end) {
      const int64_t stop = smaller(end, from + 32 * U * L);
      Vector<W> s[U] = {}, q[U] = {};
      auto add = [&](auto partial, int64_t i, int n, int u) GN_INLINE_LAMBDA {
        constexpr bool P = decltype(partial)::value;
        fetch_ahead(g.x + i);
        fetch_ahead(g.dy + i);
        const Vector<W> x = load<P>(g.x + i, n, mean);
        const Vector<W> dz =
            normalize.template gradient<A, P>(x, advance(g.residual, i), g.dy + i, n);
        s[u] += dz;
        q[u] += dz * (x - mean);
        store_gradient<A, P>(g, i, dz, n);
      };
      for (; from + U * L <= stop; from += U * L)
        GN_UNROLL
        for (int u = 0; u < U; ++u) add(Whole{}, from + u * L, L, u);
      for (; from + L <= stop; from += L) add(Whole{}, from, L, 0);
      if (from < stop) add(Part{}, from, int(stop - from), 1);
      from = stop;
      GN_UNROLL
      for (int u = 1; u < U; ++u) {
        s[0] += s[u];
        q[0] += q[u];
      }
      sum += total(s[0]);
      product += total(q[0]);
    }
    sums[c] += sum;
    products[c] += product;
  }
}

template <class T, Activation A>
void write_row_gradients(const GroupBackward<T>& g, const GroupGradient<Acc<T>>& gradient,
                         int64_t S, int64_t from, int64_t to) {
  using W = Acc<T>;
  const Vector<W> mean = broadcast(g.mean), slope = broadcast(gradient.slope),
                  constant = broadcast(gradient.constant);
  for (int64_t c = from / S; from < to; ++c) {
    const int64_t end = smaller(to, (c + 1) * S);
    const Vector<W> scale = broadcast(g.weight ? g.rstd * g.weight[c] : g.rstd);
    const Normalize<W> normalize{mean, scale, broadcast(g.bias ? g.bias[c] : W(0))};
    const int64_t first = from;
    for_vectors<W>(end - first, [&](auto partial, int64_t i, int n) GN_INLINE_LAMBDA {
      constexpr bool P = decltype(partial)::value;
      i += first;
      const Vector<W> x = load<P>(g.x + i, n);
      const Vector<W> dz = stored_gradient<A, P>(g, i, n, [&]() GN_INLINE_LAMBDA {
        return normalize.template gradient<A, P>(x, advance(g.residual, i), g.dy + i, n);
      });
      store<P>(g.dx + i, dz * scale + ((x - mean) * slope + constant), n);
    });
    from = end;
  }
}

template <class T, class Add, class Write>
void backward_contiguous(const Problem& p, Add add, Write write) {
  using W = Acc<T>;
  const int64_t D = p.C / p.G, length = D * p.S, groups = p.N * p.G;
  const W* weight = static_cast<const W*>(p.weight);
  const W* bias = static_cast<const W*>(p.bias);
  Scratch<W> dweight(p.N * p.C), dbias(p.N * p.C);

  // From the channels' sums to the parameters' gradients and the group's.
  auto finish = [&](int64_t i, const double* sums, const double* products) {
    const int64_t c0 = i % p.G * D, offset = i / p.G * p.C + c0;
    const W rstd = static_cast<const W*>(p.rstd)[i];
    double a = 0, b = 0;
    for (int64_t d = 0; d < D; ++d) {
      const double w = weight ? double(weight[c0 + d]) : 1.0;
      a += w * sums[d];
      b += w * products[d];
      dbias[offset + d] = W(sums[d]);
      dweight[offset + d] = W(products[d] * double(rstd));
    }
    return GroupGradient<W>(a, b, double(length), rstd);
  };
  const int64_t parts = parts_for(p, groups, length);
  if (parts == 1) {
    parallel(p, groups, grain_for(length), [&](int64_t begin, int64_t end) {
      Scratch<double> sums(D), products(D);
      Scratch<W> kept(scratch_count<T>(p, length));
      for (int64_t i = begin; i < end; ++i) {
        GroupBackward<T> g(p, i, length, D, weight, bias);
        if (scratch_count<T>(p, length)) g.kept = kept;
        for (int64_t d = 0; d < D; ++d) sums[d] = products[d] = 0;
        add(g, p.S, 0, length, sums, products);
        write(g, finish(i, sums, products), p.S, 0, length);
      }
    });
  } else {
    Scratch<double> partial(2 * parts * D);
    for (int64_t i = 0; i < groups; ++i) {
      const GroupBackward<T> g(p, i, length, D, weight, bias);
      parallel_parts(p, parts, length, [&](int64_t k, int64_t from, int64_t to) {
        double* own = partial + 2 * k * D;
        for (int64_t d = 0; d < 2 * D; ++d) own[d] = 0;
        add(g, p.S, from, to, own, own + D);
      });
      add_parts(partial, parts, 2 * D);
      const GroupGradient<W> gradient = finish(i, partial, partial + D);
      parallel_parts(p, parts, length, [&](int64_t, int64_t from, int64_t to) {
        write(g, gradient, p.S, from, to);
      });
    }
  }
  sum_rows<W>(p, p.N, dweight, p.dweight);
  sum_rows<W>(p, p.N, dbias, p.dbias);
}

}  // namespace GN_ISA
}  // namespace groupnorm
