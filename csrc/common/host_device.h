// Functions that CUDA kernels and the CPU both execute.

#pragma once

#ifdef __CUDACC__
#define UMER1_HOST_DEVICE __host__ __device__
// The loop that follows: whole, or so many rounds at a time.
#define UMER1_UNROLL _Pragma("unroll")
#define UMER1_UNROLL_BY(rounds) UMER1_PRAGMA(unroll rounds)
#define UMER1_PRAGMA(text) _Pragma(#text)
#else
#define UMER1_HOST_DEVICE
#define UMER1_UNROLL
#define UMER1_UNROLL_BY(rounds)
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
