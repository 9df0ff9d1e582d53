// Contiguous input (N, I, C, S) of batch norm: a group is one channel, I rows of S numbers, each
// C * S after the one before. (In channels_last I * S positions are one sample of group norm.)
#pragma once

#include "contiguous.h"

namespace groupnorm {
namespace GN_ISA {

// Where group i of C begins, and how far its rows lie apart.
struct Images {
  int64_t stride, sample;
  explicit Images(const Problem& p) : stride(p.C * p.S), sample(p.I * stride) {}
  GN_INLINE int64_t first(const Problem& p, int64_t i) const {
    return i / p.C * sample + i % p.C * p.S;
  }
};

template <class T>
Moments moments_of_rows(const T* x, const Problem& p, int64_t stride, Acc<T> shift) {
  Moments sum;
  for (int64_t r = 0; r < p.I; ++r) sum += moments_of(x + r * stride, p.S, shift);
  return sum;
}

// The mean of a few rows' few numbers.
template <class T> Acc<T> shift_of_rows(const T* x, const Problem& p, int64_t stride) {
  const int64_t rows = smaller<int64_t>(4, p.I), step = p.I / rows * stride;
  double sum = 0;
  for (int64_t r = 0; r < rows; ++r) sum += double(shift_of(x + r * step, p.S));
  return Acc<T>(sum / double(rows));
}

template <class T> void forward_images(const Problem& p) {
  using W = Acc<T>;
  const Images images(p);
  const int64_t length = p.I * p.S;
  const W* weight = static_cast<const W*>(p.weight);
  const W* bias = static_cast<const W*>(p.bias);
  parallel(p, p.N * p.C, grain_for(length), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = images.first(p, i), c = i % p.C;
      const T* x = static_cast<const T*>(p.x) + first;
      W shift = shift_of_rows(x, p, images.stride);
      Statistics<W> s(moments_of_rows(x, p, images.stride, shift), double(length), shift, p.eps);
      if (s.shift_was_poor) {
        shift = s.mean;
        s = Statistics<W>(moments_of_rows(x, p, images.stride, shift), double(length), shift,
                          p.eps);
      }
      write_statistics(p, i, s);
      GroupForward<T> g{x, nullptr, static_cast<T*>(p.y) + first, advance(weight, c),
                        advance(bias, c), s};
      for (int64_t r = 0; r < p.I; ++r, g.x += images.stride, g.y += images.stride)
        apply_rows<T, Activation::none>(g, p.S, 0, p.S);
    }
  });
}

template <class T> void backward_images(const Problem& p) {
  using W = Acc<T>;
  const Images images(p);
  const int64_t length = p.I * p.S;
  const W* weight = static_cast<const W*>(p.weight);
  Scratch<W> dweight(p.N * p.C), dbias(p.N * p.C);
  parallel(p, p.N * p.C, grain_for(length), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const GroupBackward<T> group(p, i, 0, 1, weight, nullptr);
      auto row = [&](int64_t r) {
        const int64_t offset = images.first(p, i) + r * images.stride;
        GroupBackward<T> g = group;
        g.x += offset;
        g.dy += offset;
        g.dx += offset;
        return g;
      };
      double sum = 0, product = 0;
      for (int64_t r = 0; r < p.I; ++r)
        add_row_gradients<T, Activation::none>(row(r), p.S, 0, p.S, &sum, &product);
      const double w = weight ? double(weight[i % p.C]) : 1.0;
      const GroupGradient<W> gradient(w * sum, w * product, double(length), group.rstd);
      dbias[i] = W(sum);
      dweight[i] = W(product * double(group.rstd));
      for (int64_t r = 0; r < p.I; ++r)
        write_row_gradients<T, Activation::none>(row(r), gradient, p.S, 0, p.S);
    }
  });
  sum_rows<W>(p, p.N, dweight, p.dweight);
  sum_rows<W>(p, p.N, dbias, p.dbias);
}

}  // namespace GN_ISA
}  // namespace groupnorm
