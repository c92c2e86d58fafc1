// A CUDA block as the phases of the small dual InfoNCE kernel see it.
//
// Its tensor cores are used warp by warp (sm_80 on) or, on Hopper, by warpgroups, whose multiplication
// runs on while the warps go ahead. Outside device code the members do nothing: nvcc asks for them
// when it reads common/ for the host.

#pragma once

#include "common/dual_logits.h"
#include "common/operand_products.h"
#include "cuda/tensor_core.cuh"
#include "cuda/warpgroup.cuh"

// wgmma exists in code for sm_90a alone.
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define UMER1_HAS_WARPGROUPS 1
#else
#define UMER1_HAS_WARPGROUPS 0
#endif

namespace umer1::cuda {

#ifdef __CUDACC__
// This thread's part of a warp's instructions.
struct Warp {
  float* sums;
  int lane;
  uint32_t left[4][4], right[4];

  template <bool kTransposed, class Address>
  __device__ void load_left(int down, const Address& address) {
    load_matrices<kTransposed>(left[down], address(lane));
  }
  template <bool kTransposed, class Address>
  __device__ void load_right(const Address& address) {
    load_matrices<kTransposed>(right, address(lane));
  }
  __device__ void multiply(int down, int across, int sum) {
    multiply_warp(sums + sum, left[down], right[2 * across], right[2 * across + 1]);
  }
};
#endif

#if UMER1_HAS_WARPGROUPS
struct Warpgroup {
  float* sums;

  template <int kColumns, bool kLeftByLine, bool kRightByLine>
  __device__ void multiply(int sum, uint64_t left, uint64_t right) {
    if constexpr (kColumns == 192) {
      multiply_warpgroup_192<kLeftByLine, kRightByLine>(sums + sum, left, right);
    } else {
      static_assert(kColumns == 128);
      multiply_warpgroup_128<kLeftByLine, kRightByLine>(sums + sum, left, right);
    }
  }
};
#endif

template <bool kWarpgroups_>
class DualBlock {
 public:
  static constexpr bool kWarpgroups = kWarpgroups_;

  UMER1_HOST_DEVICE explicit DualBlock(unsigned char* shared) : shared_(shared) {}

  UMER1_HOST_DEVICE unsigned char* shared() { return shared_; }
  UMER1_HOST_DEVICE dual::Registers& registers(int) { return registers_; }
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

  // Every thread, without waiting for the others.
  template <class Function>
  UMER1_HOST_DEVICE void spread(const Function& function) {
#ifdef __CUDA_ARCH__
    function(thread());
#endif
  }
  UMER1_HOST_DEVICE void wait() {
#ifdef __CUDA_ARCH__
    __syncthreads();
#endif
  }
  template <class Function>
  UMER1_HOST_DEVICE void each(const Function& function) {
    spread(function);
    wait();
  }

  // 16 bytes to this offset of shared memory; zeros if there are none.
  UMER1_HOST_DEVICE void copy(int offset, const void* from, bool exists) {
#ifdef __CUDA_ARCH__
    copy_async(shared_address(shared_) + offset, from, exists);
#endif
  }
  UMER1_HOST_DEVICE void commit() {
#ifdef __CUDA_ARCH__
    commit_copies();
#endif
  }
  UMER1_HOST_DEVICE void landed(int later) {
#ifdef __CUDA_ARCH__
    wait_for_copies(later);
#if UMER1_HAS_WARPGROUPS
    if constexpr (kWarpgroups) fence_copies();
#endif
#endif
  }

  // The threads' sums += left . right, one tile of both operands.
  template <class Shape, dual::Major kLeft, dual::Major kRight>
  UMER1_HOST_DEVICE void multiply(int left, int right) {
#ifdef __CUDA_ARCH__
    const uint32_t base = shared_address(shared_);
    if constexpr (!kWarpgroups) {
      const int number = thread();
      Warp warp = {registers_.sums, number % 32};
      dual::warp_products<Shape, kLeft, kRight>(warp, number, base + left, base + right);
    } else {
#if UMER1_HAS_WARPGROUPS
      // the same for the whole warp, and known to be so
      const int row =
          __shfl_sync(0xffffffffu, dual::WarpgroupLayout<Shape>::first_row(threadIdx.x), 0);
      Warpgroup warpgroup = {registers_.sums};
      keep_sums<Shape>();
      fence_warpgroup();
      dual::warpgroup_products<Shape, kLeft, kRight>(warpgroup, row, base + left, base + right);
      commit_warpgroup();
#endif
    }
#endif
  }
  // The operands of all multiplications but the last one may be overwritten once all threads are here.
  UMER1_HOST_DEVICE void finish_previous() {
#if UMER1_HAS_WARPGROUPS
    if constexpr (kWarpgroups) wait_for_warpgroup<1>();
#endif
  }
  // The sums may be read.
  template <class Shape>
  UMER1_HOST_DEVICE void finish() {
#if UMER1_HAS_WARPGROUPS
    if constexpr (kWarpgroups) {
      wait_for_warpgroup<0>();
      keep_sums<Shape>();
    }
#endif
  }

  // Of four neighbouring threads, thread q gets word q of each.
  UMER1_HOST_DEVICE void exchange_words() {
#ifdef __CUDA_ARCH__
    uint32_t(&word)[4] = registers_.words;
    const bool odd = threadIdx.x & 1, high = threadIdx.x & 2;
    const uint32_t first = __shfl_xor_sync(0xffffffffu, odd ? word[0] : word[1], 1);
    const uint32_t second = __shfl_xor_sync(0xffffffffu, odd ? word[2] : word[3], 1);
    const uint32_t mixed[4] = {odd ? first : word[0], odd ? word[1] : first,
                               odd ? second : word[2], odd ? word[3] : second};
    const uint32_t third = __shfl_xor_sync(0xffffffffu, high ? mixed[0] : mixed[2], 2);
    const uint32_t fourth = __shfl_xor_sync(0xffffffffu, high ? mixed[1] : mixed[3], 2);
    word[0] = high ? third : mixed[0];
    word[1] = high ? fourth : mixed[1];
    word[2] = high ? mixed[2] : third;
    word[3] = high ? mixed[3] : fourth;
#endif
  }

 private:
#ifdef __CUDA_ARCH__
  // This thread's number, of which the compiler does not know that it is always the same: what it
  // means for addresses is worked out where it is used, and takes no registers beside the sums.
  __device__ static int thread() {
    int number = threadIdx.x;
    asm volatile("" : "+r"(number));
    return number;
  }
#endif

#if UMER1_HAS_WARPGROUPS
  // The threads' sums stay where a multiplication that runs on finds them.
  template <class Shape>
  __device__ void keep_sums() {
#pragma unroll
    for (int k = 0; k < Shape::kSums; ++k) keep_in_place(registers_.sums[k]);
  }
#endif

  unsigned char* shared_;
  dual::Registers registers_;
};

}  // namespace umer1::cuda
