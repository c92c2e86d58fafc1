// A CUDA block as the functions in common/ see it: its workers are its threads.

#pragma once

#include "common/host_device.h"

namespace umer1::cuda {

// On the host the members do nothing: nvcc asks for them when it reads common/ for both.
template <int kThreads>
struct ThreadBlock {
  UMER1_HOST_DEVICE int id() const {
#ifdef __CUDA_ARCH__
    return blockIdx.x;
#else
    return 0;
#endif
  }
  UMER1_HOST_DEVICE int all() const {
#ifdef __CUDA_ARCH__
    return gridDim.x;
#else
    return 1;
#endif
  }

  template <class Function>
  UMER1_HOST_DEVICE void each(const Function& function) const {
#ifdef __CUDA_ARCH__
    function(static_cast<int>(threadIdx.x));
    __syncthreads();
#endif
  }

  // The largest value, for every worker.
  template <class Function>
  UMER1_HOST_DEVICE int maximum(const Function& function) const {
    return fold<int>(function, [](int one, int other) { return most(one, other); });
  }

  // The sum over all workers, in an order that depends on nothing.
  template <class Function>
  UMER1_HOST_DEVICE double sum(const Function& function) const {
    return fold<double>(function, [](double one, double other) { return one + other; });
  }

 private:
  template <typename T, class Function, class Combine>
  UMER1_HOST_DEVICE T fold(const Function& function, const Combine& combine) const {
#ifdef __CUDA_ARCH__
    constexpr int kWarps = kThreads / 32;
    __shared__ T of_warp[kWarps];
    T value = function(static_cast<int>(threadIdx.x));
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2) {
      value = combine(value, __shfl_xor_sync(0xffffffffu, value, mask));
    }
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = value;
    __syncthreads();
    value = of_warp[0];
#pragma unroll
    for (int warp = 1; warp < kWarps; ++warp) value = combine(value, of_warp[warp]);
    __syncthreads();  // of_warp may be written again
    return value;
#else
    return T();
#endif
  }
};

}  // namespace umer1::cuda
