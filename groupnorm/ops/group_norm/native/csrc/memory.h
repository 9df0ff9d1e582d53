// Chunks from memory and to it: conversions of the half types, whole chunks and the first of one.
#pragma once

#include "simd.h"

namespace groupnorm {
namespace GN_ISA {

GN_INLINE One<float> unpack(Bits u, float) { return {(Floats)u}; }
GN_INLINE Bits pack(One<float> c, float) { return (Bits)c.a; }
GN_INLINE One<double> unpack(Bits u, double) { return {(Vector<double>)u}; }
GN_INLINE Bits pack(One<double> c, double) { return (Bits)c.a; }

GN_INLINE Two unpack(Bits u, bf16) { return {(Floats)(u << 16), (Floats)(u & 0xffff0000u)}; }

#if defined(__AVX512BF16__)
GN_INLINE Bits pack(Two c, bf16) {  // to nearest, ties to even; below 2^-126 it is zero
  typedef uint16_t Halves __attribute__((vector_size(64)));
  const Halves order = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                        8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  const __m512i both = (__m512i)_mm512_cvtne2ps_pbh(c.b, c.a);
  return (Bits)_mm512_maskz_permutexvar_epi16(~0u, (__m512i)order, both);
}
#else
GN_INLINE Bits rounded(Floats v) {  // the upper halves: to nearest, ties to even
  Bits u = (Bits)v;
  return v == v ? u + 0x7fffu + ((u >> 16) & 1u) : 0x7fc00000u - Bits{};
}
GN_INLINE Bits pack(Two c, bf16) {
  return (rounded(c.a) >> 16) | (rounded(c.b) & 0xffff0000u);
}
#endif

#if defined(__AVX2__)
constexpr int kRound = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
#endif
#if defined(__AVX512F__)  // with masks, for GCC warns of undefined values in the others
GN_INLINE Two unpack(Bits u, f16) {
  const __m256i a = _mm512_castsi512_si256((__m512i)u);
  const __m256i b = _mm512_maskz_extracti64x4_epi64(0xf, (__m512i)u, 1);
  return {_mm512_maskz_cvtph_ps(0xffff, a), _mm512_maskz_cvtph_ps(0xffff, b)};
}
GN_INLINE Bits pack(Two c, f16) {
  const __m256i a = _mm512_maskz_cvtps_ph(0xffff, c.a, kRound);
  const __m256i b = _mm512_maskz_cvtps_ph(0xffff, c.b, kRound);
  const __m512i twice = _mm512_maskz_broadcast_i64x4(0xff, a);
  return (Bits)_mm512_mask_broadcast_i64x4(twice, 0xf0, b);
}
#elif defined(__AVX2__)
GN_INLINE Two unpack(Bits u, f16) {
  const __m128i a = _mm256_castsi256_si128((__m256i)u);
  return {_mm256_cvtph_ps(a), _mm256_cvtph_ps(_mm256_extracti128_si256((__m256i)u, 1))};
}
GN_INLINE Bits pack(Two c, f16) {
  const __m256i a = _mm256_castsi128_si256(_mm256_cvtps_ph(c.a, kRound));
  return (Bits)_mm256_inserti128_si256(a, _mm256_cvtps_ph(c.b, kRound), 1);
}
#else
GN_INLINE Floats from_half(Bits u) {  // of 16 bits
  Bits magnitude = (u & 0x7fffu) << 13;
  Floats scaled = (Floats)magnitude * 0x1p112f;  // exponent bias 15 to 127
  Bits special = (Bits)(magnitude >= (0x7c00u << 13));  // infinity, NaN
  Bits bits = ((Bits)scaled & ~special) | ((magnitude | 0x7f800000u) & special);
  return (Floats)(bits | ((u & 0x8000u) << 16));
}
GN_INLINE Bits to_half(Floats v) {
  Bits u = (Bits)v, sign = (u >> 16) & 0x8000u;
  u &= 0x7fffffffu;
  // adding 0.5 lines a number below 2^-14 up with the spacing of small halves, 2^-24
  Bits small = (Bits)((Floats)u + 0.5f) - 0x3f000000u;
  Bits normal = (u - 0x38000000u + 0xfffu + ((u >> 13) & 1u)) >> 13;  // ties to even
  Bits is_small = (Bits)(u < 0x38800000u), is_large = (Bits)(u >= 0x47800000u);
  Bits is_nan = (Bits)(u > 0x7f800000u);
  Bits h = (small & is_small) | (normal & ~is_small);
  return ((h & ~is_large) | (0x7c00u & is_large) | (0x0200u & is_nan)) | sign;
}
GN_INLINE Two unpack(Bits u, f16) { return {from_half(u & 0xffffu), from_half(u >> 16)}; }
GN_INLINE Bits pack(Two c, f16) { return to_half(c.a) | (to_half(c.b) << 16); }
#endif

template <class T> GN_INLINE Chunk<T> load(const T* p) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 2 && !kInterleaved<T>) {  // the conversion reads memory itself
    const __m256i* halves = reinterpret_cast<const __m256i*>(p);
    return {_mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(halves)),
            _mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(halves + 1))};
  }
#endif
  Bits u;
  std::memcpy(&u, p, sizeof u);
  return unpack(u, T{});
}
template <class T> GN_INLINE void store(T* p, Chunk<T> c) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 2 && !kInterleaved<T>) {
    __m256i* halves = reinterpret_cast<__m256i*>(p);
    _mm256_storeu_si256(halves, _mm512_maskz_cvtps_ph(0xffff, c.a, kRound));
    _mm256_storeu_si256(halves + 1, _mm512_maskz_cvtps_ph(0xffff, c.b, kRound));
    return;
  }
#endif
  const Bits u = pack(c, T{});
  std::memcpy(p, &u, sizeof u);
}
// Past the cache, to an address that is a multiple of the vector's size.
template <class T> GN_INLINE void store_past_cache(T* p, Chunk<T> c) {
#if defined(__AVX512F__)
  _mm512_stream_si512(reinterpret_cast<__m512i*>(p), (__m512i)pack(c, T{}));
#elif defined(__AVX2__)
  _mm256_stream_si256(reinterpret_cast<__m256i*>(p), (__m256i)pack(c, T{}));
#elif defined(__x86_64__)
  _mm_stream_si128(reinterpret_cast<__m128i*>(p), (__m128i)pack(c, T{}));
#else
  store(p, c);
#endif
}

// The first `count` numbers, at least one; the others are those of `fill`.
template <class T> GN_INLINE Chunk<T> load_first(const T* p, int count, Chunk<T> fill) {
  Bits u{};
#if defined(__AVX512BW__)
  u = (Bits)_mm512_maskz_loadu_epi8(~0ull >> (64 - count * sizeof(T)), p);
#else
  std::memcpy(&u, p, size_t(count) * sizeof(T));
#endif
  return first<T>(count, unpack(u, T{}), fill);
}
template <class T> GN_INLINE void store_first(T* p, int count, Chunk<T> c) {
  const Bits u = pack(c, T{});
#if defined(__AVX512BW__)
  _mm512_mask_storeu_epi8(p, ~0ull >> (64 - count * sizeof(T)), (__m512i)u);
#else
  std::memcpy(p, &u, size_t(count) * sizeof(T));
#endif
}

// A chunk's registers as numbers of the accumulation type, in the order of their slots.
template <class W> GN_INLINE Vector<W> load_vector(const W* p) {
  Vector<W> v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
template <class W> GN_INLINE void store_vector(W* p, Vector<W> v) { std::memcpy(p, &v, sizeof v); }
template <class T> GN_INLINE Chunk<T> load_slots(const Acc<T>* p) {
  if constexpr (kIsHalf<T>) return {load_vector(p), load_vector(p + kLanes<float>)};
  else return {load_vector(p)};
}
template <class T> GN_INLINE void store_slots(Acc<T>* p, Chunk<T> c) {
  store_vector(p, c.a);
  if constexpr (kIsHalf<T>) store_vector(p + kLanes<float>, c.b);
}

// Every other lane of two vectors, from `begin` on; and lanes of both in turns.
template <class E> GN_INLINE auto every_other(int begin) {
  Vector<typename IntegerOf<sizeof(E)>::type> index;
  for (int i = 0; i < kLanes<E>; ++i) index[i] = begin + 2 * i;
  return index;
}
template <class E> GN_INLINE auto in_turns(int begin) {
  Vector<typename IntegerOf<sizeof(E)>::type> index;
  for (int i = 0; i < kLanes<E>; ++i) index[i] = begin + i / 2 + i % 2 * kLanes<E>;
  return index;
}

// The same in the order of the numbers.
template <class T> GN_INLINE Chunk<T> load_numbers(const Acc<T>* p) {
  const Chunk<T> c = load_slots<T>(p);
  if constexpr (!kInterleaved<T>) return c;
  else return {shuffle(c.a, c.b, every_other<float>(0)), shuffle(c.a, c.b, every_other<float>(1))};
}
template <class T> GN_INLINE void store_numbers(Acc<T>* p, Chunk<T> c) {
  if constexpr (!kInterleaved<T>) return store_slots<T>(p, c);
  else {
    constexpr int half = kLanes<float> / 2;
    store_slots<T>(p, Two{shuffle(c.a, c.b, in_turns<float>(0)),
                          shuffle(c.a, c.b, in_turns<float>(half))});
  }
}

}  // namespace GN_ISA
}  // namespace groupnorm
