// channels_last input (N, S, C): vectors run across the channels, never over part of a group.
//
// Sums are kept for each channel and folded into groups; constants of a group are laid out channel
// by channel. So any number of channels per group takes the same path. k positions side by side
// make a row, so that few or odd channels fill whole vectors too: to the loops a row is one
// position with k * C channels.
#pragma once

#include "statistics.h"

namespace groupnorm {
namespace GN_ISA {

constexpr int64_t kRowsPerSum = 64;    // no longer a sum in the accumulation type
constexpr int64_t kRowsPerBlock = 32;  // in one pass over a tile of channels

// How a sample's S positions make rows.
struct Rows {
  int64_t k, width, count, remainder;  // positions in a row, numbers in it, rows, numbers left over

  Rows(int64_t S, int64_t C, int lanes) : k(1) {
    const int64_t tile = 4 * lanes;
    const int64_t units[] = {tile, lanes};
    for (int64_t unit : units) {
      int64_t fits = 1;
      while (fits * C % unit != 0) fits *= 2;  // lanes are a power of two
      if (fits * C <= larger<int64_t>(2048, C) && 2 * fits <= S) {
        k = fits;
        break;
      }
    }
    width = k * C;
    count = S / k;
    remainder = (S - count * k) * C;
  }
};

// f(tag, offset, lanes, vectors): `Tile` vectors at a time, then one, then part of one.
template <int N> struct Count { static constexpr int value = N; };
template <class W, int Tile, class F> GN_INLINE void for_tiles(int64_t width, F f) {
  constexpr int L = kLanes<W>;
  int64_t c = 0;
  for (; c + Tile * L <= width; c += Tile * L) f(Whole{}, Count<Tile>{}, c, L);
  for (; c + L <= width; c += L) f(Whole{}, Count<1>{}, c, L);
  if (c < width) f(Part{}, Count<1>{}, c, int(width - c));
}

// Fewer vectors at a time where the arithmetic needs the registers.
template <Activation A> constexpr int kTile = is_costly(A) || kVectorBytes < 64 ? 2 : 4;

// ---- statistics ---------------------------------------------------------------------------------

// Adds each channel's sums of d = x - shift and of d^2 over some rows of at least `width` numbers.
template <class T>
void add_channel_moments(const T* x, int64_t rows, int64_t stride, int64_t width,
                         const Acc<T>* shift, double* sums, double* squares) {
  using W = Acc<T>;
  constexpr int L = kLanes<W>;
  for_tiles<W, 4>(width, [&](auto partial, auto vectors, int64_t c, int n) GN_INLINE_LAMBDA {
    constexpr bool P = decltype(partial)::value;
    constexpr int U = decltype(vectors)::value;
    Vector<W> around[U], s[U] = {}, q[U] = {};
    GN_UNROLL
    for (int u = 0; u < U; ++u) around[u] = load<false>(shift + c + u * L);
    const T* ptr = x + c;
    for (int64_t i = 0; i < rows; ++i, ptr += stride)
      GN_UNROLL
      for (int u = 0; u < U; ++u) {
        const Vector<W> d = load<P>(ptr + u * L, n, around[u]) - around[u];
        s[u] += d;
        q[u] += d * d;
      }
    GN_UNROLL
    for (int u = 0; u < U; ++u) {
      add_to(sums + c + u * L, s[u]);
      add_to(squares + c + u * L, q[u]);
    }
  });
}

// sums[g] over the group's channels in all k positions of a row
inline double fold(const double* values, const Rows& rows, int64_t C, int64_t D, int64_t g) {
  double a = 0, b = 0, c = 0, d = 0;
  for (int64_t j = 0; j < rows.k; ++j) {
    const double* v = values + j * C + g * D;
    int64_t i = 0;
    for (; i + 4 <= D; i += 4) {
      a += v[i];
      b += v[i + 1];
      c += v[i + 2];
      d += v[i + 3];
    }
    for (; i < D; ++i) a += v[i];
  }
  return (a + b) + (c + d);
}

// Rows [from, to) of a sample; the last part of a sample has its left-over numbers too.
template <class T>
void sample_moments(const T* x, const Rows& l, int64_t from, int64_t to, bool with_remainder,
                    const Acc<T>* shift, double* sums, double* squares) {
  std::memset(sums, 0, size_t(l.width) * sizeof(double));
  std::memset(squares, 0, size_t(l.width) * sizeof(double));
  for (int64_t i = from; i < to; i += kRowsPerSum)
    add_channel_moments(x + i * l.width, smaller(kRowsPerSum, to - i), l.width, l.width, shift,
                        sums, squares);
  if (with_remainder && l.remainder)
    add_channel_moments(x + l.count * l.width, 1, l.width, l.remainder, shift, sums, squares);
}

// What a sample needs, channel by channel, for k positions.
template <class W> struct Channels {
  Scratch<W> mean, scale, shift;
  explicit Channels(const Rows& l) : mean(l.width), scale(l.width), shift(l.width) {}
  GN_INLINE Normalize<W> constants(int64_t c) const {
    return {load<false>(mean + c), load<false>(scale + c), load<false>(shift + c)};
  }
};

// Copies the first C numbers k - 1 times behind themselves.
template <class W> void repeat(W* values, int64_t C, int64_t k) {
  for (int64_t j = 1; j < k; ++j) std::memcpy(values + j * C, values, size_t(C) * sizeof(W));
}

// A shift for each channel that is the same within a group: the mean of a few positions.
template <class T>
void channel_shifts(const T* x, const Problem& p, const Rows& l, Acc<T>* shift) {
  const int64_t D = p.C / p.G, length = D * p.S;
  const int64_t most = p.S < 512 ? 4 : 16;  // reading single numbers is slow
  const int64_t wanted = larger<int64_t>(1, smaller(most, length / 16));
  const int64_t channels = smaller(D, wanted), positions = larger<int64_t>(1, wanted / channels);
  for (int64_t g = 0; g < p.G; ++g) {
    double sum = 0;
    for (int64_t i = 0; i < positions; ++i)
      for (int64_t j = 0; j < channels; ++j) {
        const T* ptr = x + i * (p.S / positions) * p.C + g * D + j * (D / channels);
        sum += double(single(ptr));
      }
    const Acc<T> value = Acc<T>(sum / double(positions * channels));
    for (int64_t c = g * D; c < (g + 1) * D; ++c) shift[c] = value;
  }
  repeat(shift, p.C, l.k);
}

// From the sums of sample n to its statistics and the constants of its channels. Where a shift was
// poor, a better one is put in `shift`, and the result is false.
template <class W>
bool finish_statistics(const Problem& p, const Rows& l, int64_t n, const double* sums,
                       const double* squares, W* shift, Channels<W>& channels, bool last) {
  const int64_t D = p.C / p.G;
  const W* weight = static_cast<const W*>(p.weight);
  const W* bias = static_cast<const W*>(p.bias);
  bool good = true;
  for (int64_t g = 0; g < p.G; ++g) {
    const Moments m{fold(sums, l, p.C, D, g), fold(squares, l, p.C, D, g)};
    const Statistics<W> s(m, double(D * p.S), shift[g * D], p.eps);
    write_statistics(p, n * p.G + g, s);
    if (s.shift_was_poor && !last) good = false;
    for (int64_t c = g * D; c < (g + 1) * D; ++c) {
      const W scale = weight ? s.rstd * weight[c] : s.rstd;
      channels.mean[c] = s.mean;
      channels.scale[c] = scale;
      channels.shift[c] = (bias ? bias[c] : W(0)) - s.residual_mean * scale;
    }
  }
  if (!good) {
    for (int64_t c = 0; c < p.C; ++c) shift[c] = channels.mean[c];
    repeat(shift, p.C, l.k);
    return false;
  }
  repeat<W>(channels.mean, p.C, l.k);
  repeat<W>(channels.scale, p.C, l.k);
  repeat<W>(channels.shift, p.C, l.k);
  return true;
}

// ---- forward ------------------------------------------------------------------------------------

template <class T, Activation A>
void apply_channels(const T* x, const T* residual, T* y, int64_t rows, int64_t stride,
                    int64_t width, const Channels<Acc<T>>& channels) {
  using W = Acc<T>;
  constexpr int L = kLanes<W>;
  for_tiles<W, kTile<A>>(width, [&](auto partial, auto vectors, int64_t c,
                                    int n) GN_INLINE_LAMBDA {
    constexpr bool P = decltype(partial)::value;
    constexpr int U = decltype(vectors)::value;
    Normalize<W> normalize[U];
    GN_UNROLL
    for (int u = 0; u < U; ++u) normalize[u] = channels.constants(c + u * L);
    for (int64_t i = 0; i < rows; ++i)
      GN_UNROLL
      for (int u = 0; u < U; ++u) {
        const int64_t offset = i * stride + c + u * L;
        const Vector<W> z = normalize[u].template operator()<P>(load<P>(x + offset, n),
                                                                advance(residual, offset), n);
        store<P>(y + offset, value_of<A>(z), n);
      }
  });
}

template <class T, class F>
void apply_sample(const Problem& p, const Rows& l, int64_t n, int64_t from, int64_t to,
                  bool with_remainder, const Channels<Acc<T>>& channels, F apply) {
  const int64_t size = p.S * p.C;
  const T* x = static_cast<const T*>(p.x) + n * size;
  const T* residual = advance(static_cast<const T*>(p.residual), n * size);
  T* y = static_cast<T*>(p.y) + n * size;
  auto rows = [&](int64_t first, int64_t count, int64_t width) {
    const int64_t offset = first * l.width;
    apply(x + offset, advance(residual, offset), y + offset, count, l.width, width, channels);
  };
  if (with_remainder && l.remainder) rows(l.count, 1, l.remainder);
  // backwards, for the end of the sample is what the cache still holds
  for (int64_t i = to; i > from;) {
    const int64_t count = smaller(kRowsPerBlock, i - from);
    i -= count;
    rows(i, count, l.width);
  }
}

template <class T, class F> void forward_channels_last(const Problem& p, F apply) {
  using W = Acc<T>;
  const Rows l(p.S, p.C, kLanes<W>);
  const int64_t size = p.S * p.C;
  const T* all = static_cast<const T*>(p.x);
  const int64_t parts = parts_for(p, p.N, size);
  if (parts == 1) {
    parallel(p, p.N, grain_for(size), [&](int64_t begin, int64_t end) {
      Scratch<double> sums(l.width), squares(l.width);
      Scratch<W> shift(l.width);
      Channels<W> channels(l);
      for (int64_t n = begin; n < end; ++n) {
        const T* x = all + n * size;
        channel_shifts(x, p, l, static_cast<W*>(shift));
        for (int tries = 0; tries < 2; ++tries) {
          sample_moments<T>(x, l, 0, l.count, true, shift, sums, squares);
          if (finish_statistics<W>(p, l, n, sums, squares, shift, channels, tries == 1)) break;
        }
        apply_sample<T>(p, l, n, 0, l.count, true, channels, apply);
      }
    });
    return;
  }
  Scratch<double> sums(parts * l.width), squares(parts * l.width);
  Scratch<W> shift(l.width);
  Channels<W> channels(l);
  for (int64_t n = 0; n < p.N; ++n) {
    const T* x = all + n * size;
    channel_shifts(x, p, l, static_cast<W*>(shift));
    for (int tries = 0; tries < 2; ++tries) {
      parallel_parts(p, parts, l.count, [&](int64_t k, int64_t from, int64_t to) {
        sample_moments<T>(x, l, from, to, k == parts - 1, shift, sums + k * l.width,
                          squares + k * l.width);
      });
      add_parts(sums, parts, l.width);
      add_parts(squares, parts, l.width);
      if (finish_statistics<W>(p, l, n, sums, squares, shift, channels, tries == 1)) break;
    }
    parallel_parts(p, parts, l.count, [&](int64_t k, int64_t from, int64_t to) {
      apply_sample<T>(p, l, n, from, to, k == parts - 1, channels, apply);
    });
  }
}

}  // namespace GN_ISA
}  // namespace groupnorm
