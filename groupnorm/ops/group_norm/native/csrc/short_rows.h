// Contiguous input with few positions (down to none: linear layers): a channel's row is too short
// for whole vectors, so weight and bias are laid out position by position, (C * S), and a group is
// read as one stretch.
#pragma once

#include "statistics.h"

namespace groupnorm {
namespace GN_ISA {

constexpr int64_t kShortRow = 32;

// Weight and bias, position by position; empty where rows are long.
template <class W> struct Spread {
  Scratch<W> weight, bias;
  explicit Spread(const Problem& p) : weight(size(p)), bias(size(p)) {
    if (p.S >= kShortRow) return;
    const W* w = static_cast<const W*>(p.weight);
    const W* b = static_cast<const W*>(p.bias);
    for (int64_t c = 0; c < p.C; ++c)
      for (int64_t s = 0; s < p.S; ++s) {
        weight[c * p.S + s] = w ? w[c] : W(1);
        bias[c * p.S + s] = b ? b[c] : W(0);
      }
  }
  static int64_t size(const Problem& p) { return p.S < kShortRow ? p.C * p.S : 0; }
};

// A group in the forward direction.
template <class T> struct GroupForward {
  using W = Acc<T>;
  const T* x;
  const T* residual;  // or null
  T* y;
  const W* weight;  // of the group's channels, or null; where rows are short, of its numbers
  const W* bias;
  Statistics<W> s;
};

// Numbers [from, to) of a group.
template <class T, Activation A>
void apply_short_rows(const GroupForward<T>& g, int64_t, int64_t from, int64_t to) {
  using W = Acc<T>;
  const Vector<W> mean = broadcast(g.s.mean), residual_mean = broadcast(g.s.residual_mean),
                  rstd = broadcast(g.s.rstd);
  for_vectors<W>(to - from, [&](auto partial, int64_t i, int n) GN_INLINE_LAMBDA {
    constexpr bool P = decltype(partial)::value;
    i += from;
    const Vector<W> xhat = ((load<P>(g.x + i, n) - mean) - residual_mean) * rstd;
    Vector<W> z = xhat * load<P>(g.weight + i, n) + load<P>(g.bias + i, n);
    if (g.residual) z += load<P>(g.residual + i, n);
    store<P>(g.y + i, value_of<A>(z), n);
  });
}

// A group in the backward direction.
template <class T> struct GroupBackward {
  using W = Acc<T>;
  const T* x;
  const T* residual;  // or null
  const T* dy;
  T* dx;
  T* dresidual;       // or null
  W* kept = nullptr;  // for dz; see store_gradient
  const W* weight;    // as in GroupForward
  const W* bias;
  W mean, rstd;

  GroupBackward(const Problem& p, int64_t group, int64_t length, int64_t parameters_each,
                const W* weights, const W* biases)
      : x(static_cast<const T*>(p.x) + group * length),
        residual(advance(static_cast<const T*>(p.residual), group * length)),
        dy(static_cast<const T*>(p.dy) + group * length),
        dx(static_cast<T*>(p.dx) + group * length),
        dresidual(advance(static_cast<T*>(p.dresidual), group * length)),
        weight(advance(weights, group % p.G * parameters_each)),
        bias(advance(biases, group % p.G * parameters_each)),
        mean(static_cast<const W*>(p.mean)[group]),
        rstd(static_cast<const W*>(p.rstd)[group]) {}
};

// One group; adds dz and dz * xhat, number by number, to `sums` and `products`.
template <class T, Activation A>
void short_rows_gradient(const GroupBackward<T>& g, int64_t length, Acc<T>* sums,
                         Acc<T>* products) {
  using W = Acc<T>;
  const Vector<W> mean = broadcast(g.mean), rstd = broadcast(g.rstd);
  auto gradient = [&](auto partial, int64_t i, int n, Vector<W> x) GN_INLINE_LAMBDA {
    constexpr bool P = decltype(partial)::value;
    const Normalize<W> normalize{mean, rstd * load<P>(g.weight + i, n), load<P>(g.bias + i, n)};
    return normalize.template gradient<A, P>(x, advance(g.residual, i), g.dy + i, n);
  };
  Vector<W> a{}, a_centred{};
  for_vectors<W>(length, [&](auto partial, int64_t i, int n) GN_INLINE_LAMBDA {
    constexpr bool P = decltype(partial)::value;
    const Vector<W> x = load<P>(g.x + i, n, mean);
    const Vector<W> dz = gradient(partial, i, n, x);
    const Vector<W> weighted = dz * load<P>(g.weight + i, n);
    a += weighted;
    a_centred += weighted * (x - mean);
    store<P>(sums + i, load<P>(sums + i, n) + dz, n);
    store<P>(products + i, load<P>(products + i, n) + dz * ((x - mean) * rstd), n);
    store_gradient<A, P>(g, i, dz, n);
  });
  const GroupGradient<W> group(total(a), total(a_centred), double(length), g.rstd);
  const Vector<W> slope = broadcast(group.slope), constant = broadcast(group.constant);
  for_vectors<W>(length, [&](auto partial, int64_t i, int n) GN_INLINE_LAMBDA {
    constexpr bool P = decltype(partial)::value;
    const Vector<W> x = load<P>(g.x + i, n, mean);
    const Vector<W> dz = stored_gradient<A, P>(
        g, i, n, [&]() GN_INLINE_LAMBDA { return gradient(partial, i, n, x); });
    store<P>(g.dx + i, dz * (rstd * load<P>(g.weight + i, n)) + ((x - mean) * slope + constant), n);
  });
}

// Sums over at most this many samples stay in the accumulation type.
constexpr int64_t kSamplesPerPart = 32;

template <class T, class F> void backward_short_rows(const Problem& p, F short_rows_gradient) {
  using W = Acc<T>;
  const int64_t width = p.C * p.S, length = width / p.G;
  const int64_t part =
      larger<int64_t>(1, smaller(kSamplesPerPart, p.N / (4 * int64_t(p.threads))));
  const int64_t parts = (p.N + part - 1) / part;
  const Spread<W> spread(p);
  Scratch<W> dweight(parts * p.C), dbias(parts * p.C);
  parallel(p, parts, grain_for(part * width), [&](int64_t begin, int64_t end) {
    Scratch<W> sums(width), products(width), kept(scratch_count<T>(p, length));
    for (int64_t k = begin; k < end; ++k) {
      std::memset(sums, 0, size_t(width) * sizeof(W));
      std::memset(products, 0, size_t(width) * sizeof(W));
      for (int64_t i = k * part * p.G; i < smaller(p.N, (k + 1) * part) * p.G; ++i) {
        GroupBackward<T> g(p, i, length, length, spread.weight, spread.bias);
        if (scratch_count<T>(p, length)) g.kept = kept;
        const int64_t offset = i % p.G * length;
        short_rows_gradient(g, length, sums + offset, products + offset);
      }
      for (int64_t c = 0; c < p.C; ++c) {
        double sum = 0, product = 0;
        for (int64_t s = 0; s < p.S; ++s) {
          sum += double(sums[c * p.S + s]);
          product += double(products[c * p.S + s]);
        }
        dbias[k * p.C + c] = W(sum);
        dweight[k * p.C + c] = W(product);
      }
    }
  });
  sum_rows<W>(p, parts, dweight, p.dweight);
  sum_rows<W>(p, parts, dbias, p.dbias);
}

}  // namespace GN_ISA
}  // namespace groupnorm
