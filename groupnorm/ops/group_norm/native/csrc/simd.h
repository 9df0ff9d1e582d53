// Vectors of one instruction set, chosen by the compiler's flags: 64, 32 or 16 bytes.
//
// Built on the vector extension of GCC and clang, so that one source serves every instruction set.
// No function or template of the standard library may be used in the kernels: the linker would
// keep one copy of it for all instruction sets.
#pragma once

#include <cstdint>
#include <cstring>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define GN_INLINE inline __attribute__((always_inline))
#define GN_INLINE_LAMBDA __attribute__((always_inline))
#if defined(__clang__)
#define GN_UNROLL _Pragma("unroll")
#else
#define GN_UNROLL _Pragma("GCC unroll 8")
#endif

namespace groupnorm {
namespace GN_ISA {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

struct bf16 { uint16_t bits; };
struct f16 { uint16_t bits; };

template <class I> GN_INLINE I smaller(I a, I b) { return a < b ? a : b; }
template <class I> GN_INLINE I larger(I a, I b) { return a > b ? a : b; }

template <class E> struct VectorOf { typedef E type __attribute__((vector_size(kVectorBytes))); };
template <class E> using Vector = typename VectorOf<E>::type;
template <class W> constexpr int kLanes = kVectorBytes / int(sizeof(W));
using Floats = Vector<float>;
using Bits = Vector<uint32_t>;

template <class W> GN_INLINE Vector<W> broadcast(W value) { return value - Vector<W>{}; }

template <int Bytes> struct IntegerOf { using type = int32_t; };
template <> struct IntegerOf<8> { using type = int64_t; };

// x in the first `count` lanes, y in the others
template <class V> GN_INLINE V first_lanes(int count, V x, V y) {
  using I = typename IntegerOf<sizeof(x[0])>::type;
  static const I lanes[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  Vector<I> lane;
  std::memcpy(&lane, lanes, sizeof lane);
  return lane < broadcast<I>(I(count)) ? x : y;
}

// Lane i is lane index[i] of x and y, those of y counted on.
template <class V, class I> GN_INLINE V shuffle(V x, V y, I index) {
#if defined(__clang__)
  constexpr int n = int(sizeof(V) / sizeof(x[0]));
  V result;
  for (int i = 0; i < n; ++i) result[i] = index[i] < n ? x[index[i]] : y[index[i] - n];
  return result;
#else
  return __builtin_shuffle(x, y, index);
#endif
}

// ---- chunks: one vector of memory in registers, in the type that it is computed in ---------------

template <class W> struct One { Vector<W> a; };     // float, double
struct Two { Floats a, b; };                        // half types
template <class T> struct ChunkOf { using type = Two; using Acc = float; };
template <> struct ChunkOf<float> { using type = One<float>; using Acc = float; };
template <> struct ChunkOf<double> { using type = One<double>; using Acc = double; };
template <class T> using Chunk = typename ChunkOf<T>::type;
template <class T> using Acc = typename ChunkOf<T>::Acc;  // what T is computed in
template <class T> constexpr bool kIsHalf = sizeof(T) < sizeof(Acc<T>);
template <class T> constexpr int kNumbers = kVectorBytes / int(sizeof(T));  // of a chunk

#define GN_OPERATOR(op)                                                                    \
  template <class W> GN_INLINE One<W> operator op(One<W> x, One<W> y) { return {x.a op y.a}; } \
  GN_INLINE Two operator op(Two x, Two y) { return {x.a op y.a, x.b op y.b}; }
GN_OPERATOR(+)
GN_OPERATOR(-)
GN_OPERATOR(*)
#undef GN_OPERATOR

template <class T> GN_INLINE Chunk<T> filled(Acc<T> value) {
  if constexpr (kIsHalf<T>) return {broadcast(value), broadcast(value)};
  else return {broadcast(value)};
}

// Register a of a half type holds the even numbers, b the odd ones, which takes a shift and a mask;
// float16 has instructions that convert a half of the vector.
#if defined(__AVX2__)
template <class T> constexpr bool kInterleaved = false;
#else
template <class T> constexpr bool kInterleaved = kIsHalf<T>;
#endif
template <> constexpr bool kInterleaved<bf16> = true;

// x in the first `count` numbers of a chunk, y in the others
template <class T> GN_INLINE Chunk<T> first(int count, Chunk<T> x, Chunk<T> y) {
  constexpr int L = kLanes<float>;
  if constexpr (kInterleaved<T>)
    return {first_lanes((count + 1) / 2, x.a, y.a), first_lanes(count / 2, x.b, y.b)};
  else if constexpr (kIsHalf<T>)
    return {first_lanes(smaller(count, L), x.a, y.a), first_lanes(larger(count - L, 0), x.b, y.b)};
  else return {first_lanes(count, x.a, y.a)};
}

// ---- sums in double -----------------------------------------------------------------------------

GN_INLINE double total(Vector<double> v) {
  double sum = v[0];
  GN_UNROLL
  for (int i = 1; i < kLanes<double>; ++i) sum += v[i];
  return sum;
}
template <int Bytes> struct FloatsOf { typedef float type __attribute__((vector_size(Bytes))); };
typedef FloatsOf<16>::type Quarter;
template <int Bytes> GN_INLINE Quarter quarter(typename FloatsOf<Bytes>::type v) {
  if constexpr (Bytes == 16) return v;
  else {
    typename FloatsOf<Bytes / 2>::type halves[2];
    std::memcpy(halves, &v, sizeof v);
    return quarter<Bytes / 2>(halves[0] + halves[1]);
  }
}
GN_INLINE Floats in_one(Two c) { return c.a + c.b; }
GN_INLINE Floats in_one(One<float> c) { return c.a; }

// sums[0] += total of x, sums[1] += total of y; the last steps of both together
GN_INLINE void add_totals(double* sums, One<double> x, One<double> y) {
  sums[0] += total(x.a);
  sums[1] += total(y.a);
}
template <class C> GN_INLINE void add_totals(double* sums, C x, C y) {
  const Quarter a = quarter<kVectorBytes>(in_one(x)), b = quarter<kVectorBytes>(in_one(y));
#if defined(__x86_64__)
  const __m128 both = _mm_add_ps(_mm_unpacklo_ps(a, b), _mm_unpackhi_ps(a, b));
  const __m128d totals = _mm_add_pd(_mm_cvtps_pd(both), _mm_cvtps_pd(_mm_movehl_ps(both, both)));
  _mm_storeu_pd(sums, _mm_add_pd(_mm_loadu_pd(sums), totals));
#else
  sums[0] += double(a[0] + a[2]) + double(a[1] + a[3]);
  sums[1] += double(b[0] + b[2]) + double(b[1] + b[3]);
#endif
}

}  // namespace GN_ISA
}  // namespace groupnorm
