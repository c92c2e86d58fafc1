// bfloat16 numbers as their 16 bits, on the CPU and in CUDA kernels.

#pragma once

#include <cstdint>
#include <cstring>

#include "common/host_device.h"

namespace umer1 {

UMER1_HOST_DEVICE inline float widen_bfloat16(uint16_t bits) {
#ifdef __CUDA_ARCH__
  return __uint_as_float(static_cast<uint32_t>(bits) << 16);
#else
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, sizeof(value));
  return value;
#endif
}

// Two numbers rounded to nearest even, the first one in the low half.
UMER1_HOST_DEVICE inline uint32_t pack_bfloat16(float low, float high) {
#ifdef __CUDA_ARCH__
  uint32_t result;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(high), "f"(low));
  return result;
#else
  uint32_t result = 0;
  const float values[2] = {low, high};
  for (int k = 0; k < 2; ++k) {
    uint32_t bits;
    std::memcpy(&bits, &values[k], sizeof(bits));
    const bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
    const uint32_t half = is_nan ? 0x7fffu : (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    result |= half << (16 * k);
  }
  return result;
#endif
}

}  // namespace umer1
