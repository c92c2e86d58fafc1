// Reading and writing float32, float64, bfloat16 and float16 numbers, several at a time.

#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "common/host_device.h"

namespace umer1::cuda {

UMER1_HOST_DEVICE inline float widen(float value) { return value; }
UMER1_HOST_DEVICE inline double widen(double value) { return value; }
UMER1_HOST_DEVICE inline float widen(__nv_bfloat16 value) { return __bfloat162float(value); }
UMER1_HOST_DEVICE inline float widen(__half value) { return __half2float(value); }

UMER1_HOST_DEVICE inline void narrow(float value, float& to) { to = value; }
UMER1_HOST_DEVICE inline void narrow(double value, double& to) { to = value; }
UMER1_HOST_DEVICE inline void narrow(float value, __nv_bfloat16& to) {
  to = __float2bfloat16_rn(value);
}
UMER1_HOST_DEVICE inline void narrow(float value, __half& to) { to = __float2half_rn(value); }

// Loaded and stored in one instruction where it is 4, 8 or 16 bytes.
template <typename T, int kCount>
struct alignas(sizeof(T) * kCount) Pack {
  T value[kCount];
};

}  // namespace umer1::cuda
