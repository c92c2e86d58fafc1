// The sampler's passes in every instruction set, by plain pointers.

#include <cstdint>

#include "cpu/lanes.h"

namespace umer1 {
namespace {

#define UMER1_VARIANT portable
#define UMER1_TARGET
#include "cpu/sampler_lanes.inc"
#undef UMER1_VARIANT
#undef UMER1_TARGET

#if defined(__x86_64__)
#define UMER1_VARIANT avx2
#define UMER1_TARGET __attribute__((target("avx2,fma")))
#include "cpu/sampler_lanes.inc"
#undef UMER1_VARIANT
#undef UMER1_TARGET

#define UMER1_VARIANT avx512
#define UMER1_TARGET __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")))
#include "cpu/sampler_lanes.inc"
#endif

template <typename T>
void run(int variant, const T* x, int64_t n, float factor, float* best, float* total, float* out) {
#if defined(__x86_64__)
  if (variant == 1) {
    avx2::pool(x, n, factor, best, total);
    avx2::exponentials(x, n, factor, *best, out);
  }
  if (variant == 2) {
    avx512::pool(x, n, factor, best, total);
    avx512::exponentials(x, n, factor, *best, out);
  }
#endif
  if (variant == 0) {
    portable::pool(x, n, factor, best, total);
    portable::exponentials(x, n, factor, *best, out);
  }
}

}  // namespace
}  // namespace umer1

extern "C" {

// n logits -> the largest, the sum of exponentials, and those (with room for n + 16).
void pool_float(int variant, const float* x, int64_t n, float factor, float* best, float* total,
                float* out) {
  umer1::run(variant, x, n, factor, best, total, out);
}

void pool_bits(int variant, const uint16_t* x, int64_t n, float factor, float* best, float* total,
               float* out) {
  umer1::run(variant, x, n, factor, best, total, out);
}
}
