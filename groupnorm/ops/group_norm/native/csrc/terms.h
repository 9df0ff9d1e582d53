// What the two loops compute, number by number, forward and backward: the terms that the first pass
// adds up, and the result that the second pass writes.
#pragma once

#include "activations.h"
#include "common.h"

namespace groupnorm {
namespace GN_ISA {

// Tensors from some number on.
template <class T> struct Tensors {
  const T* x;
  const T* residual;  // or null
  const T* dy;
  T* result;          // y or dx
  T* dresidual;       // or null
  Acc<T>* kept;       // for dz between the passes, or null: see `keeps_in_scratch`
  bool past_cache;    // results are written past the cache

  Tensors() = default;
  explicit Tensors(const Problem& p)
      : x(static_cast<const T*>(p.x)), residual(static_cast<const T*>(p.residual)),
        dy(static_cast<const T*>(p.dy)), result(static_cast<T*>(p.dx ? p.dx : p.y)),
        dresidual(static_cast<T*>(p.dresidual)), kept(nullptr), past_cache(false) {
    if constexpr (!kIsHalf<T>)
      if (p.dx && is_costly(p.activation)) kept = dresidual ? dresidual : result;
  }
  GN_INLINE Tensors at(int64_t offset) const {
    Tensors t = *this;
    t.x += offset;
    t.residual = advance(residual, offset);
    t.dy = advance(dy, offset);
    t.result += offset;
    t.dresidual = advance(dresidual, offset);
    t.kept = advance(kept, offset);
    return t;
  }
};

// Stores past the cache pay where the output would not stay in it: forward on contiguous input from
// about half of the last level on, on channels_last and backward from a quarter; not where the output
// already holds dz. Every stretch of `length` numbers must begin at a vector's address.
template <class T> bool goes_past_cache(const Problem& p, int64_t length) {
  const Tensors<T> t(p);
  const void* result = t.result;
  const int64_t bytes = p.N * p.I * p.C * p.S * int64_t(sizeof(T));
  return p.cache_bytes > 0 && bytes >= p.cache_bytes / (p.dx || p.channels_last ? 4 : 2) &&
         reinterpret_cast<uintptr_t>(result) % kVectorBytes == 0 &&
         length * int64_t(sizeof(T)) % kVectorBytes == 0 && result != t.x &&
         result != t.residual && result != t.kept;
}
inline void finish_stores_past_cache() {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

// Where the slope is costly, dz is kept instead of being computed twice: in the output where its
// type loses nothing, else in scratch memory while that fits in the cache.
constexpr int64_t kMostScratch = 131072;  // numbers
template <class T> bool keeps_in_scratch(const Problem& p, int64_t count) {
  return kIsHalf<T> && is_costly(p.activation) && count <= kMostScratch;
}

// Of a chunk: z = (x - mean) * scale + shift + residual;
// dx = dz * scale + (x - mean) * slope + constant.
template <class T> struct Constants { Chunk<T> mean, scale, shift, slope, constant; };

// With a = dz * weight and the exact mean m = mean + residual_mean: slope = -rstd^2 * mean(a * xhat) and
// constant = -rstd * mean(a), xhat = (x - m) * rstd. The writing loop has x - mean, not x - m: the
// constant takes up the difference.
template <class W> struct GroupGradient {
  W slope, constant;
  GroupGradient(double sum_a, double sum_a_centred, double count, W rstd, W residual_mean) {
    const double r = double(rstd), exact_slope = -r * r * r * sum_a_centred / count;
    slope = W(exact_slope);
    constant = W(-r * sum_a / count - exact_slope * double(residual_mean));
  }
};

// f(whole, i, n) for the chunks of `count` numbers: whether a chunk is whole, where it begins, and how
// many of the numbers it has.
struct IsWhole { static constexpr bool value = true; };
struct IsPart { static constexpr bool value = false; };
template <class T, class F> GN_INLINE void for_chunks(int64_t count, F f) {
  constexpr int L = kNumbers<T>;
  int64_t i = 0;
  for (; i + L <= count; i += L) f(IsWhole{}, i, L);
  if (i < count) f(IsPart{}, i, int(count - i));
}

template <bool Whole, class T>
GN_INLINE Chunk<T> load_some(const T* p, int n, Chunk<T> fill) {
  if constexpr (Whole) return load(p);
  else return load_first(p, n, fill);
}
template <bool Whole, class T> GN_INLINE void store_some(T* p, int n, Chunk<T> c) {
  if constexpr (Whole) store(p, c);
  else store_first(p, n, c);
}

template <class T> struct Pair { Chunk<T> first, second; };
template <class T> GN_INLINE Pair<T> operator+(Pair<T> x, Pair<T> y) {
  return {x.first + y.first, x.second + y.second};
}

// In all of them: the n numbers from i on, a whole chunk or the first of one; beyond them the terms
// are 0 where all constants are finite.

// d = x - mean and d^2, the mean being a shift near it.
template <class T> struct Moment {
  static constexpr int kChunks = 4;  // so many independent sums
  template <bool Whole>
  static GN_INLINE Pair<T> at(const Tensors<T>& t, int64_t i, int n, const Constants<T>& k) {
    const Chunk<T> d = load_some<Whole>(t.x + i, n, k.mean) - k.mean;
    return {d, d * d};
  }
};

template <class T, Activation A> struct Output {
  template <bool Whole>
  static GN_INLINE Chunk<T> z(const Tensors<T>& t, Chunk<T> x, int64_t i, int n,
                              const Constants<T>& k) {
    const Chunk<T> z = (x - k.mean) * k.scale + k.shift;
    return t.residual ? z + load_some<Whole>(t.residual + i, n, filled<T>(0)) : z;
  }
  template <bool Whole>
  static GN_INLINE Chunk<T> at(const Tensors<T>& t, int64_t i, int n, const Constants<T>& k) {
    return value_of<A>(z<Whole>(t, load_some<Whole>(t.x + i, n, k.mean), i, n, k));
  }
};

// dz = dy * activation'(z) and dz * (x - mean); stores dz where it is wanted.
template <class T, Activation A> struct Gradient {
  static constexpr int kChunks = is_costly(A) ? 2 : 4;
  template <bool Whole>
  static GN_INLINE Chunk<T> dz(const Tensors<T>& t, Chunk<T> x, int64_t i, int n,
                               const Constants<T>& k) {
    const Chunk<T> dy = load_some<Whole>(t.dy + i, n, filled<T>(0));
    if constexpr (A == Activation::none) return dy;
    else return dy * slope_of<A>(Output<T, A>::template z<Whole>(t, x, i, n, k));
  }
  template <bool Whole>
  static GN_INLINE Pair<T> at(const Tensors<T>& t, int64_t i, int n, const Constants<T>& k) {
    const Chunk<T> x = load_some<Whole>(t.x + i, n, k.mean);
    const Chunk<T> z = dz<Whole>(t, x, i, n, k);
    if (A != Activation::none && t.dresidual) store_some<Whole>(t.dresidual + i, n, z);
    if constexpr (is_costly(A) && kIsHalf<T>) {
      if (t.kept) store_slots<T>(t.kept + i, z);
    } else if constexpr (is_costly(A)) {
      if (t.kept != t.dresidual) store_some<Whole>(t.kept + i, n, z);
    }
    return {z, z * (x - k.mean)};
  }
};

template <class T, Activation A> struct InputGradient {
  template <bool Whole>
  static GN_INLINE Chunk<T> at(const Tensors<T>& t, int64_t i, int n, const Constants<T>& k) {
    const Chunk<T> x = load_some<Whole>(t.x + i, n, k.mean);
    Chunk<T> z;
    if (is_costly(A) && t.kept) z = kept<Whole>(t, i, n);
    else z = Gradient<T, A>::template dz<Whole>(t, x, i, n, k);
    return z * k.scale + ((x - k.mean) * k.slope + k.constant);
  }
  template <bool Whole>
  static GN_INLINE Chunk<T> kept(const Tensors<T>& t, int64_t i, int n) {
    if constexpr (kIsHalf<T>) return load_slots<T>(t.kept + i);
    else return load_some<Whole>(t.kept + i, n, filled<T>(0));
  }
};

template <bool Whole, class T>
GN_INLINE void store_result(const Tensors<T>& t, int64_t i, int n, Chunk<T> c) {
  if (Whole && t.past_cache) store_past_cache(t.result + i, c);
  else store_some<Whole>(t.result + i, n, c);
}

// Writes the result of n numbers from i on.
template <bool Whole, class Result, class T>
GN_INLINE void write(const Tensors<T>& t, int64_t i, int n, const Constants<T>& k) {
  store_result<Whole>(t, i, n, Result::template at<Whole>(t, i, n, k));
}

// Writes the results of `Count` whole chunks from i on, all of which are read before one is written. A
// load waits for a store just before it if their addresses are equal modulo 4096, as those of the
// next chunk and the result are where two tensors were made one after another; so fewer loads wait.
template <int Count, class Result, class T>
GN_INLINE void write_chunks(const Tensors<T>& t, int64_t i, const Constants<T>& k) {
  constexpr int L = kNumbers<T>;
  Chunk<T> chunks[Count];
  GN_UNROLL
  for (int j = 0; j < Count; ++j) chunks[j] = Result::template at<true>(t, i + j * L, L, k);
  GN_UNROLL
  for (int j = 0; j < Count; ++j) store_result<true>(t, i + j * L, L, chunks[j]);
}

}  // namespace GN_ISA
}  // namespace groupnorm
