// Functions that CUDA kernels and the CPU both execute.

#pragma once

#ifdef __CUDACC__
#define UMER1_HOST_DEVICE __host__ __device__
// before a loop that mostly runs once: unrolled it would only take registers
#define UMER1_KEEP_ROLLED _Pragma("unroll 1")
#else
#define UMER1_HOST_DEVICE
#define UMER1_KEEP_ROLLED
#endif

namespace umer1 {

template <typename T>
UMER1_HOST_DEVICE constexpr T divide_up(T value, T by) {
  return (value + by - 1) / by;
}

template <typename T>
UMER1_HOST_DEVICE constexpr T least(T one, T other) {
  return other < one ? other : one;
}

template <typename T>
UMER1_HOST_DEVICE constexpr T most(T one, T other) {
  return one < other ? other : one;
}

// Adds to a counter that many blocks share. Whole numbers only: their sum has no order.
UMER1_HOST_DEVICE inline void add_to_counter(int* counter, int value) {
#ifdef __CUDA_ARCH__
  atomicAdd(counter, value);
#else
  *counter += value;
#endif
}

}  // namespace umer1
