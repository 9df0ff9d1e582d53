// Activations and their slopes on vectors: float by polynomials, double by the C library.
#pragma once

#include <math.h>

#include "problem.h"
#include "simd.h"

namespace groupnorm {
namespace GN_ISA {

// 1 / d for finite d >= 1: an estimate and a Newton step, cheaper than a division.
GN_INLINE Floats reciprocal(Floats d) {
#if defined(__AVX512F__)
  Floats r = _mm512_maskz_rcp14_ps(__mmask16(0xffff), d);
  return r * (2.0f - d * r);
#else
  return 1.0f / d;
#endif
}

// The smaller, the larger of x and a limit; NaN stays NaN.
GN_INLINE Floats at_most(Floats x, float limit) {
#if defined(__AVX512F__)
  return _mm512_maskz_min_ps(__mmask16(0xffff), broadcast(limit), x);
#elif defined(__AVX2__)
  return _mm256_min_ps(broadcast(limit), x);
#else
  return x > limit ? broadcast(limit) : x;
#endif
}
GN_INLINE Floats at_least(Floats x, float limit) {
#if defined(__AVX512F__)
  return _mm512_maskz_max_ps(__mmask16(0xffff), broadcast(limit), x);
#elif defined(__AVX2__)
  return _mm256_max_ps(broadcast(limit), x);
#else
  return x < limit ? broadcast(limit) : x;
#endif
}

// e^x for x in [-87, 88] (clamped there), relative error below 2e-7; NaN stays NaN.
GN_INLINE Floats exp_clamped(Floats x) {
  x = at_least(at_most(x, 88.0f), -87.0f);
  const float kRound = 12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest integer
  Floats shifted = x * 1.44269504f + kRound;
  Floats n = shifted - kRound;
  Floats r = x - n * 0.693145752f;  // ln 2 in two parts, the first with few bits
  r = r - n * 1.42860677e-6f;
  // minimax polynomial of degree 6 on |r| <= ln(2) / 2, relative error 3e-9
  Floats p = r * 0.00138146130f + 0.00836870984f;
  p = p * r + 0.0416683674f;
  p = p * r + 0.166665207f;
  p = p * r + 0.499999935f;
  p = p * (r * r) + r + 1.0f;
#if defined(__AVX512F__)
  return _mm512_maskz_scalef_ps(__mmask16(0xffff), p, n);
#else
  Bits exponent = ((Bits)shifted + (127u - 0x4b400000u)) << 23;
  return p * (Floats)exponent;
#endif
}

GN_INLINE Floats sigmoid(Floats z) {
  Floats s = reciprocal(1.0f + exp_clamped(-z));
  return z < -87.0f ? Floats{} : s;
}

// The normal distribution function at z, and exp(-z^2 / 2).
GN_INLINE Floats normal_cdf(Floats z, Floats& bell) {
  Floats a = z < 0.0f ? -z : z;
  bell = exp_clamped(-0.5f * a * a);
  bell = a > 13.0f ? Floats{} : bell;
  // the tail over the bell, as a polynomial in 1 / (1 + 0.3 a): relative error 1.3e-7
  Floats t = reciprocal(1.0f + 0.3f * at_most(a, 13.0f));
  Floats p = t * 0.0359320305f - 0.158277139f;
  p = p * t + 0.208208382f;
  p = p * t - 0.0553953238f;
  p = p * t + 0.129469901f;
  p = p * t + 0.0996372998f;
  p = p * t + 0.120798387f;
  p = p * t + 0.119626388f;
  Floats tail = p * t * bell;
  return z < 0.0f ? tail : 1.0f - tail;
}

// ---- the same for double, lane by lane by the C library -----------------------------------------

using Doubles = Vector<double>;

template <class F> GN_INLINE Doubles each(Doubles z, F f) {
  for (int i = 0; i < kLanes<double>; ++i) z[i] = f(z[i]);
  return z;
}
GN_INLINE Doubles reciprocal(Doubles d) { return 1.0 / d; }
GN_INLINE Doubles at_most(Doubles x, double limit) { return x > limit ? broadcast(limit) : x; }
GN_INLINE Doubles at_least(Doubles x, double limit) { return x < limit ? broadcast(limit) : x; }
GN_INLINE Doubles exp_clamped(Doubles x) {
  return each(x, [](double v) { return exp(v); });
}
GN_INLINE Doubles sigmoid(Doubles z) { return 1.0 / (1.0 + exp_clamped(-z)); }
GN_INLINE Doubles normal_cdf(Doubles z, Doubles& bell) {
  bell = exp_clamped(-0.5 * z * z);
  return each(z, [](double v) { return 0.5 * erfc(-v * M_SQRT1_2); });
}

// ---- values and slopes --------------------------------------------------------------------------

template <class V> struct LaneOf { using type = float; };
template <> struct LaneOf<Doubles> { using type = double; };
template <class V> using NumberOf = typename LaneOf<V>::type;

constexpr double kCubic = 0.044715;
constexpr double kInverseSqrt2Pi = 0.39894228040143268;
constexpr double kTwoSqrt2OverPi = 1.5957691216057308;  // 2 sqrt(2 / pi)

template <class V> GN_INLINE V tanh_gelu_gate(V z) {  // (1 + tanh(u)) / 2 = sigmoid(2 u)
  using W = NumberOf<V>;
  return sigmoid(W(kTwoSqrt2OverPi) * (z + W(kCubic) * z * z * z));
}

// tanh(softplus(z)) = n / (n + 2) with e = exp(z), n = e (e + 2); beyond 20 it is 1.
template <class V> struct MishParts {
  using W = NumberOf<V>;
  V e, n, q;
  explicit GN_INLINE MishParts(V z) {
    e = exp_clamped(at_most(z, W(20)));
    n = e * (e + W(2));
    q = reciprocal(n + W(2));
  }
};

template <Activation A, class V> GN_INLINE V value(V z) {
  using W = NumberOf<V>;
  if constexpr (A == Activation::relu) return at_least(z, W(0));
  if constexpr (A == Activation::leaky_relu) return z > W(0) ? z : W(kLeakySlope) * z;
  if constexpr (A == Activation::silu) return z * sigmoid(z);
  if constexpr (A == Activation::gelu) {
    V bell;
    return z * normal_cdf(z, bell);
  }
  if constexpr (A == Activation::gelu_tanh) return z * tanh_gelu_gate(z);
  if constexpr (A == Activation::mish) {
    MishParts<V> m(z);
    return z * (m.n * m.q);
  }
  if constexpr (A == Activation::hardswish)
    return z * (at_least(at_most(z + W(3), W(6)), W(0)) * (W(1) / W(6)));
  return z;
}

template <Activation A, class V> GN_INLINE V slope(V z) {
  using W = NumberOf<V>;
  const V one = broadcast(W(1)), zero{};
  if constexpr (A == Activation::relu) return z > W(0) ? one : zero;
  if constexpr (A == Activation::leaky_relu) return z > W(0) ? one : broadcast(W(kLeakySlope));
  if constexpr (A == Activation::silu) {
    V s = sigmoid(z);
    return s * (W(1) + z * (W(1) - s));
  }
  if constexpr (A == Activation::gelu) {
    V bell;
    V cdf = normal_cdf(z, bell);
    return cdf + z * bell * W(kInverseSqrt2Pi);
  }
  if constexpr (A == Activation::gelu_tanh) {
    V s = tanh_gelu_gate(z);
    V inner = W(kTwoSqrt2OverPi) * (W(1) + W(3 * kCubic) * z * z);
    return s + z * s * (W(1) - s) * inner;
  }
  if constexpr (A == Activation::mish) {
    MishParts<V> m(z);
    V derivative = W(4) * (m.n + W(1)) * m.q * m.q;  // 1 - tanh^2
    V s = m.n * m.q + z * (m.e * reciprocal(W(1) + m.e)) * derivative;
    return z > W(20) ? one : s;
  }
  if constexpr (A == Activation::hardswish) {
    V s = z < W(3) ? (W(2) * z + W(3)) * (W(1) / W(6)) : one;
    return z <= W(-3) ? zero : s;
  }
  return one;
}

template <Activation A, class W> GN_INLINE One<W> value_of(One<W> z) { return {value<A>(z.a)}; }
template <Activation A, class W> GN_INLINE One<W> slope_of(One<W> z) { return {slope<A>(z.a)}; }
template <Activation A> GN_INLINE Two value_of(Two z) { return {value<A>(z.a), value<A>(z.b)}; }
template <Activation A> GN_INLINE Two slope_of(Two z) { return {slope<A>(z.a), slope<A>(z.b)}; }

// f(tag), tag::value being the activation.
template <Activation A> struct ActivationTag { static constexpr Activation value = A; };
template <class F> void with_activation(Activation a, F f) {
  switch (a) {
    case Activation::none: return f(ActivationTag<Activation::none>{});
    case Activation::relu: return f(ActivationTag<Activation::relu>{});
    case Activation::leaky_relu: return f(ActivationTag<Activation::leaky_relu>{});
    case Activation::silu: return f(ActivationTag<Activation::silu>{});
    case Activation::gelu: return f(ActivationTag<Activation::gelu>{});
    case Activation::gelu_tanh: return f(ActivationTag<Activation::gelu_tanh>{});
    case Activation::mish: return f(ActivationTag<Activation::mish>{});
    case Activation::hardswish: return f(ActivationTag<Activation::hardswish>{});
  }
}

// Whether recomputing the slope costs more than keeping dz.
constexpr bool is_costly(Activation a) {
  return a != Activation::none && a != Activation::relu && a != Activation::leaky_relu &&
         a != Activation::hardswish;
}

}  // namespace GN_ISA
}  // namespace groupnorm
