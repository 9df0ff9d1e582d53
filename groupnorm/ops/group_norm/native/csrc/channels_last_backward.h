// channels_last input (N, S, C), backward: the same rows and tiles as forward.
#pragma once

#include "channels_last.h"

namespace groupnorm {
namespace GN_ISA {

// A sample in the backward direction.
template <class T> struct SampleBackward {
  using W = Acc<T>;
  const T* x;
  const T* residual;
  const T* dy;
  T* dx;
  T* dresidual;       // or null
  W* kept = nullptr;  // for dz; see store_gradient

  SampleBackward(const Problem& p, int64_t offset)
      : x(static_cast<const T*>(p.x) + offset),
        residual(advance(static_cast<const T*>(p.residual), offset)),
        dy(static_cast<const T*>(p.dy) + offset),
        dx(static_cast<T*>(p.dx) + offset),
        dresidual(advance(static_cast<T*>(p.dresidual), offset)) {}
  SampleBackward from(int64_t offset) const {
    SampleBackward s = *this;
    s.x += offset;
    s.residual = advance(residual, offset);
    s.dy += offset;
    s.dx += offset;
    s.dresidual = advance(dresidual, offset);
    s.kept = advance(kept, offset);
    return s;
  }
};

// Adds each channel's sums of dz and of dz * (x - mean) over some rows.
template <class T, Activation A>
void add_channel_gradients(const SampleBackward<T>& b, int64_t rows, int64_t stride,
                           int64_t width, const Channels<Acc<T>>& channels, double* sums,
                           double* products) {
  using W = Acc<T>;
  constexpr int L = kLanes<W>;
  for_tiles<W, kTile<A>>(width, [&](auto partial, auto vectors, int64_t c,
                                    int n) GN_INLINE_LAMBDA {
    constexpr bool P = decltype(partial)::value;
    constexpr int U = decltype(vectors)::value;
    Normalize<W> normalize[U];
    Vector<W> s[U] = {}, q[U] = {};
    GN_UNROLL
    for (int u = 0; u < U; ++u) normalize[u] = channels.constants(c + u * L);
    for (int64_t i = 0; i < rows; ++i)
      GN_UNROLL
      for (int u = 0; u < U; ++u) {
        const int64_t offset = i * stride + c + u * L;
        const Vector<W> x = load<P>(b.x + offset, n, normalize[u].mean);
        const Vector<W> dz =
            normalize[u].template gradient<A, P>(x, advance(b.residual, offset), b.dy + offset, n);
        s[u] += dz;
        q[u] += dz * (x - normalize[u].mean);
        store_gradient<A, P>(b, offset, dz, n);
      }
    GN_UNROLL
    for (int u = 0; u < U; ++u) {
      add_to(sums + c + u * L, s[u]);
      add_to(products + c + u * L, q[u]);
    }
  });
}

// Rows [from, to) of a sample.
template <class T, class F>
void sample_gradients(const SampleBackward<T>& b, const Rows& l, int64_t from, int64_t to,
                      bool with_remainder, const Channels<Acc<T>>& channels, double* sums,
                      double* products, F add) {
  std::memset(sums, 0, size_t(l.width) * sizeof(double));
  std::memset(products, 0, size_t(l.width) * sizeof(double));
  for (int64_t i = from; i < to; i += kRowsPerSum)
    add(b.from(i * l.width), smaller(kRowsPerSum, to - i), l.width, l.width, channels, sums,
        products);
  if (with_remainder && l.remainder)
    add(b.from(l.count * l.width), 1, l.width, l.remainder, channels, sums, products);
}

// The constants of dx = dz * scale + (x - mean) * slope + constant, channel by channel.
template <class W> struct GradientChannels {
  Scratch<W> slope, constant;
  explicit GradientChannels(const Rows& l) : slope(l.width), constant(l.width) {}
};

template <class T, Activation A>
void write_channel_gradients(const SampleBackward<T>& b, int64_t rows, int64_t stride,
                             int64_t width, const Channels<Acc<T>>& channels,
                             const GradientChannels<Acc<T>>& gradient) {
  using W = Acc<T>;
  constexpr int L = kLanes<W>;
  for_tiles<W, kTile<A>>(width, [&](auto partial, auto vectors, int64_t c,
                                    int n) GN_INLINE_LAMBDA {
    constexpr bool P = decltype(partial)::value;
    constexpr int U = decltype(vectors)::value;
    Normalize<W> normalize[U];
    Vector<W> slope[U], constant[U];
    GN_UNROLL
    for (int u = 0; u < U; ++u) {
      normalize[u] = channels.constants(c + u * L);
      slope[u] = load<false>(gradient.slope + c + u * L);
      constant[u] = load<false>(gradient.constant + c + u * L);
    }
    for (int64_t i = 0; i < rows; ++i)
      GN_UNROLL
      for (int u = 0; u < U; ++u) {
        const int64_t offset = i * stride + c + u * L;
        const Vector<W> x = load<P>(b.x + offset, n);
        const Vector<W> dz = stored_gradient<A, P>(b, offset, n, [&]() GN_INLINE_LAMBDA {
          return normalize[u].template gradient<A, P>(x, advance(b.residual, offset), b.dy + offset,
                                                      n);
        });
        store<P>(b.dx + offset,
                 dz * normalize[u].scale + ((x - normalize[u].mean) * slope[u] + constant[u]), n);
      }
  });
}

template <class T, class F>
void write_sample_gradients(const SampleBackward<T>& b, const Rows& l, int64_t from, int64_t to,
                            bool with_remainder, const Channels<Acc<T>>& channels,
                            const GradientChannels<Acc<T>>& gradient, F write) {
  if (with_remainder && l.remainder)
    write(b.from(l.count * l.width), 1, l.width, l.remainder, channels, gradient);
  for (int64_t i = to; i > from;) {
    const int64_t count = smaller(kRowsPerBlock, i - from);
    i -= count;
    write(b.from(i * l.width), count, l.width, l.width, channels, gradient);
  }
}

// A sample's constants as the forward pass had them, but for the residual mean.
template <class W>
void load_channels(const Problem& p, const Rows& l, int64_t n, Channels<W>& channels) {
  const int64_t D = p.C / p.G;
  const W* weight = static_cast<const W*>(p.weight);
  const W* bias = static_cast<const W*>(p.bias);
  for (int64_t g = 0; g < p.G; ++g) {
    const W mean = static_cast<const W*>(p.mean)[n * p.G + g];
    const W rstd = static_cast<const W*>(p.rstd)[n * p.G + g];
    for (int64_t c = g * D; c < (g + 1) * D; ++c) {
      channels.mean[c] = mean;
      channels.scale[c] = weight ? rstd * weight[c] : rstd;
      channels.shift[c] = bias ? bias[c] : W(0);
    }
  }
  repeat<W>(channels.mean, p.C, l.k);
  repeat<W>(channels.scale, p.C, l.k);
  repeat<W>(channels.shift, p.C, l.k);
}

// From the channels' sums of sample n to the gradients of the parameters and the constants of dx.
template <class W>
void finish_gradients(const Problem& p, const Rows& l, int64_t n, double* sums, double* products,
                      W* dweight, W* dbias, GradientChannels<W>& gradient) {
  const int64_t D = p.C / p.G;
  const W* weight = static_cast<const W*>(p.weight);
  add_parts(sums, l.k, p.C);
  add_parts(products, l.k, p.C);
  for (int64_t g = 0; g < p.G; ++g) {
    const W rstd = static_cast<const W*>(p.rstd)[n * p.G + g];
    double a = 0, b = 0;
    for (int64_t c = g * D; c < (g + 1) * D; ++c) {
      const double w = weight ? double(weight[c]) : 1.0;
      a += w * sums[c];
      b += w * products[c];
      dbias[n * p.C + c] = W(sums[c]);
      dweight[n * p.C + c] = W(products[c] * double(rstd));
    }
    const GroupGradient<W> group(a, b, double(D * p.S), rstd);
    for (int64_t c = g * D; c < (g + 1) * D; ++c) {
      gradient.slope[c] = group.slope;
      gradient.constant[c] = group.constant;
    }
  }
  repeat<W>(gradient.slope, p.C, l.k);
  repeat<W>(gradient.constant, p.C, l.k);
}

template <class T, class Add, class Write>
void backward_channels_last(const Problem& p, Add add, Write write) {
  using W = Acc<T>;
  const Rows l(p.S, p.C, kLanes<W>);
  const int64_t size = p.S * p.C;
  Scratch<W> dweight(p.N * p.C), dbias(p.N * p.C);
  const int64_t parts = parts_for(p, p.N, size);
  if (parts == 1) {
    parallel(p, p.N, grain_for(size), [&](int64_t begin, int64_t end) {
      Scratch<double> sums(l.width), products(l.width);
      Channels<W> channels(l);
      GradientChannels<W> gradient(l);
      Scratch<W> kept(scratch_count<T>(p, size));
      for (int64_t n = begin; n < end; ++n) {
        SampleBackward<T> b(p, n * size);
        if (scratch_count<T>(p, size)) b.kept = kept;
        load_channels(p, l, n, channels);
        sample_gradients<T>(b, l, 0, l.count, true, channels, sums, products, add);
        finish_gradients<W>(p, l, n, sums, products, dweight, dbias, gradient);
        write_sample_gradients<T>(b, l, 0, l.count, true, channels, gradient, write);
      }
    });
  } else {
    Scratch<double> sums(parts * l.width), products(parts * l.width);
    Channels<W> channels(l);
    GradientChannels<W> gradient(l);
    for (int64_t n = 0; n < p.N; ++n) {
      const SampleBackward<T> b(p, n * size);
      load_channels(p, l, n, channels);
      parallel_parts(p, parts, l.count, [&](int64_t k, int64_t from, int64_t to) {
        sample_gradients<T>(b, l, from, to, k == parts - 1, channels, sums + k * l.width,
                            products + k * l.width, add);
      });
      add_parts(sums, parts, l.width);
      add_parts(products, parts, l.width);
      finish_gradients<W>(p, l, n, sums, products, dweight, dbias, gradient);
      parallel_parts(p, parts, l.count, [&](int64_t k, int64_t from, int64_t to) {
        write_sample_gradients<T>(b, l, from, to, k == parts - 1, channels, gradient, write);
      });
    }
  }
  sum_rows<W>(p, p.N, dweight, p.dweight);
  sum_rows<W>(p, p.N, dbias, p.dbias);
}

}  // namespace GN_ISA
}  // namespace groupnorm
