// Softmaxes over the negatives of a row or a column, put together from parts.
//
// Legend: x unscaled logits, z = scale * x; see execution/protocol.py for pools and coefficients.

#pragma once

#include <cmath>

#include "common/host_device.h"
#include "common/infinity.h"

namespace umer1 {

// Over some negatives: the x of the largest z, and the sum of exp(scale (x - best)). Without any:
// minus infinity times the sign of the scale, and 0.
template <typename T>
struct alignas(2 * sizeof(T)) Pool {
  T best, total;
};

template <typename T>
UMER1_HOST_DEVICE inline T sign_of(T scale) {
  return scale < T(0) ? T(-1) : T(1);
}

template <typename T>
UMER1_HOST_DEVICE inline Pool<T> no_negatives(T sign) {
  return {-kInfinity<T> * sign, T(0)};
}

// exp(scale d) of a difference d of unscaled logits. The scale multiplies differences only, so that
// near ties keep their digits.
template <typename T>
struct Exponential {
  T scale;

  UMER1_HOST_DEVICE explicit Exponential(T scale_) : scale(scale_) {}
  UMER1_HOST_DEVICE T operator()(T difference) const { return std::exp(difference * scale); }
};

// By the GPU's own 2^x, which is off by 2^-22; 0 where the result would be subnormal.
template <>
struct Exponential<float> {
  float factor;

  UMER1_HOST_DEVICE explicit Exponential(float scale) : factor(scale * 1.4426950408889634f) {}
  UMER1_HOST_DEVICE float operator()(float difference) const {
    const float power = difference * factor;
#ifdef __CUDA_ARCH__
    float result;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(power));
    return result;
#else
    return power < -126.0f ? 0.0f : std::exp2(power);
#endif
  }
};

// The x of the larger z; a NaN is never larger.
template <typename T>
UMER1_HOST_DEVICE inline T better(T one, T other, T sign) {
  return other * sign > one * sign ? other : one;
}

// What the x of negatives are taken relative to, times the sign of the scale as their best is; without
// negatives anything finite.
template <typename T>
UMER1_HOST_DEVICE inline T offset_of(T signed_best) {
  return signed_best == -kInfinity<T> ? T(0) : signed_best;
}

// The pool over both sets of negatives.
template <typename T>
UMER1_HOST_DEVICE inline Pool<T> merged(const Pool<T>& one, const Pool<T>& other, T sign,
                                        const Exponential<T>& exponential) {
  if (other.total == T(0)) return one;
  if (one.total == T(0)) return other;
  const T best = better(one.best, other.best, sign);
  return {best, one.total * exponential(one.best - best) +
                    other.total * exponential(other.best - best)};
}

// A softmax's share of the gradient of one logit; a coefficient of 0 gives 0 whatever x and best are.
template <typename T>
UMER1_HOST_DEVICE inline T weighted(T coefficient, T x, T best, const Exponential<T>& exponential) {
  const T share = coefficient * exponential(x - best);
  return coefficient == T(0) ? T(0) : share;
}

}  // namespace umer1
