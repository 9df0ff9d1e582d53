// Activations and their slopes on vectors: float by polynomials, double by the C library.
#pragma once

#include <math.h>

#include "problem.h"
#include "simd.h"

namespace groupnorm {
namespace GN_ISA {

using Floats = Vector<float>;

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

constexpr float kInverseSqrt2Pi = 0.398942280f;
constexpr float kTwoSqrt2OverPi = 1.59576912f;  // 2 sqrt(2 / pi)
constexpr float kCubic = 0.044715f;

GN_INLINE Floats tanh_gelu_gate(Floats z) {  // (1 + tanh(u)) / 2 = sigmoid(2 u)
  return sigmoid(kTwoSqrt2OverPi * (z + kCubic * z * z * z));
}

// tanh(softplus(z)) = n / (n + 2) with e = exp(z), n = e (e + 2); beyond 20 it is 1.
struct MishParts {
  Floats e, n, q;
  explicit GN_INLINE MishParts(Floats z) {
    e = exp_clamped(at_most(z, 20.0f));
    n = e * (e + 2.0f);
    q = reciprocal(n + 2.0f);
  }
};

template <Activation A> GN_INLINE Floats value_of(Floats z) {
  if constexpr (A == Activation::relu) return at_least(z, 0.0f);
  if constexpr (A == Activation::leaky_relu) return z > 0.0f ? z : kLeakySlope * z;
  if constexpr (A == Activation::silu) return z * sigmoid(z);
  if constexpr (A == Activation::gelu) {
    Floats bell;
    return z * normal_cdf(z, bell);
  }
  if constexpr (A == Activation::gelu_tanh) return z * tanh_gelu_gate(z);
  if constexpr (A == Activation::mish) {
    MishParts m(z);
    return z * (m.n * m.q);
  }
  if constexpr (A == Activation::hardswish)
    return z * (at_least(at_most(z + 3.0f, 6.0f), 0.0f) * (1.0f / 6.0f));
  return z;
}

template <Activation A> GN_INLINE Floats slope_of(Floats z) {
  const Floats one = broadcast(1.0f);
  if constexpr (A == Activation::relu) return z > 0.0f ? one : Floats{};
  if constexpr (A == Activation::leaky_relu) return z > 0.0f ? one : broadcast(kLeakySlope);
  if constexpr (A == Activation::silu) {
    Floats s = sigmoid(z);
    return s * (1.0f + z * (1.0f - s));
  }
  if constexpr (A == Activation::gelu) {
    Floats bell;
    Floats cdf = normal_cdf(z, bell);
    return cdf + z * bell * kInverseSqrt2Pi;
  }
  if constexpr (A == Activation::gelu_tanh) {
    Floats s = tanh_gelu_gate(z);
    Floats inner = kTwoSqrt2OverPi * (1.0f + 3.0f * kCubic * z * z);
    return s + z * s * (1.0f - s) * inner;
  }
  if constexpr (A == Activation::mish) {
    MishParts m(z);
    Floats derivative = 4.0f * (m.n + 1.0f) * m.q * m.q;  // 1 - tanh^2
    return m.n * m.q + z * (m.e * reciprocal(1.0f + m.e)) * derivative;
  }
  if constexpr (A == Activation::hardswish) {
    Floats s = z < 3.0f ? (2.0f * z + 3.0f) * (1.0f / 6.0f) : one;
    return z <= -3.0f ? Floats{} : s;
  }
  return one;
}

// ---- double, lane by lane -----------------------------------------------------------------------

template <Activation A> inline double value_of(double z) {
  if constexpr (A == Activation::relu) return z < 0 ? 0 : z;
  if constexpr (A == Activation::leaky_relu) return z > 0 ? z : 0.01 * z;
  if constexpr (A == Activation::silu) return z / (1 + exp(-z));
  if constexpr (A == Activation::gelu) return 0.5 * z * (1 + erf(z * M_SQRT1_2));
  if constexpr (A == Activation::gelu_tanh)
    return 0.5 * z * (1 + tanh(0.5 * M_SQRT1_2 * 2 * M_2_SQRTPI * (z + 0.044715 * z * z * z)));
  if constexpr (A == Activation::mish) return z * tanh(z > 30 ? z : log1p(exp(z)));
  if constexpr (A == Activation::hardswish) return z * (z < -3 ? 0 : z > 3 ? 6 : z + 3) / 6;
  return z;
}

template <Activation A> inline double slope_of(double z) {
  if constexpr (A == Activation::relu) return z > 0 ? 1 : 0;
  if constexpr (A == Activation::leaky_relu) return z > 0 ? 1 : 0.01;
  if constexpr (A == Activation::silu) {
    double s = 1 / (1 + exp(-z));
    return s * (1 + z * (1 - s));
  }
  if constexpr (A == Activation::gelu)
    return 0.5 * (1 + erf(z * M_SQRT1_2)) + z * exp(-0.5 * z * z) * 0.5 * M_SQRT1_2 * M_2_SQRTPI;
  if constexpr (A == Activation::gelu_tanh) {
    const double k = M_SQRT1_2 * M_2_SQRTPI;  // sqrt(2 / pi)
    double t = tanh(k * (z + 0.044715 * z * z * z));
    return 0.5 * (1 + t) + 0.5 * z * (1 - t * t) * k * (1 + 3 * 0.044715 * z * z);
  }
  if constexpr (A == Activation::mish) {
    double t = tanh(z > 30 ? z : log1p(exp(z)));
    return t + z / (1 + exp(-z)) * (1 - t * t);
  }
  if constexpr (A == Activation::hardswish) return z <= -3 ? 0 : z < 3 ? (2 * z + 3) / 6 : 1;
  return 1;
}

template <Activation A> GN_INLINE Vector<double> value_of(Vector<double> z) {
  if constexpr (A == Activation::none) return z;
  for (int i = 0; i < kLanes<double>; ++i) z[i] = value_of<A>(double(z[i]));
  return z;
}

template <Activation A> GN_INLINE Vector<double> slope_of(Vector<double> z) {
  for (int i = 0; i < kLanes<double>; ++i) z[i] = slope_of<A>(double(z[i]));
  return z;
}

// Whether recomputing the slope costs more than keeping dz.
constexpr bool is_costly(Activation a) {
  return a != Activation::none && a != Activation::relu && a != Activation::leaky_relu &&
         a != Activation::hardswish;
}

}  // namespace GN_ISA
}  // namespace groupnorm
