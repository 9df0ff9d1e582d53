// Vectors of one instruction set, chosen by the compiler's flags: 64, 32 or 16 bytes.
//
// Built on the vector extension of GCC and clang, so that one source serves every instruction set.
// No function or template of the standard library may be used in the kernels: the linker would
// keep one copy of it for all instruction sets.
#pragma once

#include <cstdint>
#include <cstring>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#define GN_INLINE inline __attribute__((always_inline))
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

template <class T> struct AccumulationOf { using type = float; };
template <> struct AccumulationOf<double> { using type = double; };
template <class T> using Acc = typename AccumulationOf<T>::type;  // what T is computed in

template <class W> struct VectorOf;
template <> struct VectorOf<float> {
  typedef float type __attribute__((vector_size(kVectorBytes)));
  typedef float unaligned __attribute__((vector_size(kVectorBytes), aligned(4), may_alias));
};
template <> struct VectorOf<double> {
  typedef double type __attribute__((vector_size(kVectorBytes)));
  typedef double unaligned __attribute__((vector_size(kVectorBytes), aligned(8), may_alias));
};
template <class W> using Vector = typename VectorOf<W>::type;
template <class W> constexpr int kLanes = kVectorBytes / int(sizeof(W));

constexpr int kFloats = kLanes<float>;
typedef uint32_t Bits __attribute__((vector_size(kVectorBytes)));
typedef uint16_t Half __attribute__((vector_size(kVectorBytes / 2)));
typedef uint16_t HalfUnaligned
    __attribute__((vector_size(kVectorBytes / 2), aligned(2), may_alias));
typedef float FloatHalf __attribute__((vector_size(kVectorBytes / 2)));

template <class W> GN_INLINE Vector<W> broadcast(W value) { return value - Vector<W>{}; }

// value in the first `count` lanes, `fill` in the others
template <class V, class E>
GN_INLINE V first_lanes(const E* p, int count, V fill) {
  std::memcpy(&fill, p, size_t(count) * sizeof(E));
  return fill;
}

// ---- float <-> storage type, whole vectors ------------------------------------------------------

// GCC's __builtin_convertvector between integers takes detours: intrinsics where there are any.
GN_INLINE Bits to_32(Half h) {
#if defined(__AVX512F__)
  return (Bits)_mm512_maskz_cvtepu16_epi32(__mmask16(0xffff), (__m256i)h);
#elif defined(__AVX2__)
  return (Bits)_mm256_cvtepu16_epi32((__m128i)h);
#else
  return __builtin_convertvector(h, Bits);
#endif
}

GN_INLINE Half to_16(Bits u) {  // numbers below 2^16
#if defined(__AVX512F__)
  return (Half)_mm512_maskz_cvtepi32_epi16(__mmask16(0xffff), (__m512i)u);
#elif defined(__AVX2__)
  __m256i packed = _mm256_packus_epi32((__m256i)u, (__m256i)u);
  return (Half)_mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 0x08));
#else
  return __builtin_convertvector(u, Half);
#endif
}

GN_INLINE Vector<float> widen(Half h, bf16) { return (Vector<float>)(to_32(h) << 16); }

GN_INLINE Half narrow(Vector<float> v, bf16) {
  Bits u = (Bits)v;
  Bits rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;  // to nearest, ties to even
  Bits nan = 0x7fc0u - Bits{};
  return to_16(v == v ? rounded : nan);
}

GN_INLINE Vector<float> widen(Half h, f16) {
#if defined(__AVX512F__)
  return _mm512_maskz_cvtph_ps(__mmask16(0xffff), (__m256i)h);
#elif defined(__AVX2__)
  return _mm256_cvtph_ps((__m128i)h);
#else
  Bits u = to_32(h);
  Bits magnitude = (u & 0x7fffu) << 13;
  Vector<float> scaled = (Vector<float>)magnitude * 0x1p112f;  // exponent bias 15 to 127
  Bits special = (Bits)(magnitude >= (0x7c00u << 13));         // infinity, NaN
  Bits bits = ((Bits)scaled & ~special) | ((magnitude | 0x7f800000u) & special);
  return (Vector<float>)(bits | ((u & 0x8000u) << 16));
#endif
}

GN_INLINE Half narrow(Vector<float> v, f16) {
#if defined(__AVX512F__)
  return (Half)_mm512_maskz_cvtps_ph(__mmask16(0xffff), v,
                                     _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#elif defined(__AVX2__)
  return (Half)_mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
  Bits u = (Bits)v, sign = (u >> 16) & 0x8000u;
  u &= 0x7fffffffu;
  // adding 0.5 lines a number below 2^-14 up with the spacing of small halves, 2^-24
  Bits small = (Bits)((Vector<float>)u + 0.5f) - 0x3f000000u;
  Bits normal = (u - 0x38000000u + 0xfffu + ((u >> 13) & 1u)) >> 13;  // ties to even
  Bits is_small = (Bits)(u < 0x38800000u), is_large = (Bits)(u >= 0x47800000u);
  Bits is_nan = (Bits)(u > 0x7f800000u);
  Bits h = (small & is_small) | (normal & ~is_small);
  h = (h & ~is_large) | (0x7c00u & is_large) | (0x0200u & is_nan);
  return to_16(h | sign);
#endif
}

// ---- loads and stores ---------------------------------------------------------------------------

template <class T> struct Memory {  // bf16, f16
  static GN_INLINE Vector<float> load(const T* p) {
    return widen((Half)*reinterpret_cast<const HalfUnaligned*>(p), T{});
  }
  static GN_INLINE void store(T* p, Vector<float> v) {
    *reinterpret_cast<HalfUnaligned*>(p) = narrow(v, T{});
  }
  static GN_INLINE Vector<float> load_first(const T* p, int count, Vector<float> fill) {
#if defined(__AVX512BW__) && defined(__AVX512VL__)
    __m256i h = _mm256_maskz_loadu_epi16(__mmask16((1u << count) - 1), p);
    return _mm512_mask_mov_ps(fill, __mmask16((1u << count) - 1), widen((Half)h, T{}));
#else
    Vector<float> v = widen(first_lanes(p, count, Half{}), T{});
    return first_lanes(reinterpret_cast<const float*>(&v), count, fill);
#endif
  }
  static GN_INLINE void store_first(T* p, Vector<float> v, int count) {
    Half h = narrow(v, T{});
#if defined(__AVX512BW__) && defined(__AVX512VL__)
    _mm256_mask_storeu_epi16(p, __mmask16((1u << count) - 1), (__m256i)h);
#else
    std::memcpy(p, &h, size_t(count) * sizeof(T));
#endif
  }
};

template <> struct Memory<float> {
  static GN_INLINE Vector<float> load(const float* p) {
    return *reinterpret_cast<const VectorOf<float>::unaligned*>(p);
  }
  static GN_INLINE void store(float* p, Vector<float> v) {
    *reinterpret_cast<VectorOf<float>::unaligned*>(p) = v;
  }
  static GN_INLINE Vector<float> load_first(const float* p, int count, Vector<float> fill) {
#if defined(__AVX512F__)
    return _mm512_mask_loadu_ps(fill, __mmask16((1u << count) - 1), p);
#else
    return first_lanes(p, count, fill);
#endif
  }
  static GN_INLINE void store_first(float* p, Vector<float> v, int count) {
#if defined(__AVX512F__)
    _mm512_mask_storeu_ps(p, __mmask16((1u << count) - 1), v);
#else
    std::memcpy(p, &v, size_t(count) * sizeof(float));
#endif
  }
};

template <> struct Memory<double> {
  static GN_INLINE Vector<double> load(const double* p) {
    return *reinterpret_cast<const VectorOf<double>::unaligned*>(p);
  }
  static GN_INLINE void store(double* p, Vector<double> v) {
    *reinterpret_cast<VectorOf<double>::unaligned*>(p) = v;
  }
  static GN_INLINE Vector<double> load_first(const double* p, int count, Vector<double> fill) {
    return first_lanes(p, count, fill);
  }
  static GN_INLINE void store_first(double* p, Vector<double> v, int count) {
    std::memcpy(p, &v, size_t(count) * sizeof(double));
  }
};

// The whole vector, or its first `count` lanes when `Partial`.
template <bool Partial, class T>
GN_INLINE Vector<Acc<T>> load(const T* p, int count, Vector<Acc<T>> fill) {
  if constexpr (Partial) return Memory<T>::load_first(p, count, fill);
  else return Memory<T>::load(p);
}
template <bool Partial, class T> GN_INLINE Vector<Acc<T>> load(const T* p, int count = 0) {
  const Vector<Acc<T>> zero = broadcast<Acc<T>>(0);
  return load<Partial>(p, count, zero);
}

template <bool Partial, class T>
GN_INLINE void store(T* p, Vector<Acc<T>> v, int count = 0) {
  if constexpr (Partial) Memory<T>::store_first(p, v, count);
  else Memory<T>::store(p, v);
}

// ---- sums in double -----------------------------------------------------------------------------

// The sum of the lanes, by halves.
GN_INLINE double total(Vector<double> v) {
  double sum = v[0];
  GN_UNROLL
  for (int i = 1; i < kLanes<double>; ++i) sum += v[i];
  return sum;
}
template <int Bytes> struct FloatsOf { typedef float type __attribute__((vector_size(Bytes))); };
template <int Bytes> GN_INLINE double total_of(typename FloatsOf<Bytes>::type v) {
  typename FloatsOf<Bytes / 2>::type halves[2];
  std::memcpy(halves, &v, sizeof v);
  if constexpr (Bytes > 16) return total_of<Bytes / 2>(halves[0] + halves[1]);
  else return double(halves[0][0] + halves[1][0]) + double(halves[0][1] + halves[1][1]);
}
GN_INLINE double total(Vector<float> v) { return total_of<kVectorBytes>(v); }

// sums[0 ... lanes) += v
GN_INLINE void add_to(double* sums, Vector<double> v) {
  Memory<double>::store(sums, Memory<double>::load(sums) + v);
}
GN_INLINE void add_to(double* sums, Vector<float> v) {
  FloatHalf halves[2];
  std::memcpy(halves, &v, sizeof v);
  add_to(sums, __builtin_convertvector(halves[0], Vector<double>));
  add_to(sums + kLanes<double>, __builtin_convertvector(halves[1], Vector<double>));
}

template <class I> GN_INLINE I smaller(I a, I b) { return a < b ? a : b; }
template <class I> GN_INLINE I larger(I a, I b) { return a > b ? a : b; }

}  // namespace GN_ISA
}  // namespace groupnorm
