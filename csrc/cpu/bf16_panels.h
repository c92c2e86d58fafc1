// Panels of float32 products of bfloat16 rows and candidates, used up in the cache, and running pools.
//
// Include inside one translation unit: it compiles softmax_lanes.inc for AVX512-BF16.

#pragma once

#include <cmath>
#include <vector>

#include "common/tensor.h"
#include "cpu/bf16_product.h"
#include "cpu/softmax_lanes.h"

#if defined(__x86_64__)
namespace umer1 {
namespace {

using bf16::Bits;

constexpr int64_t kSlab = 512;  // candidates of a slab, packed once for all rows
constexpr int64_t kRows = 24;   // rows of a panel, the task of a thread

#define UMER1_VARIANT lanes
#define UMER1_TARGET UMER1_BF16_TARGET
#include "cpu/softmax_lanes.inc"
#undef UMER1_VARIANT
#undef UMER1_TARGET

// n float32 -> bfloat16, rounded to nearest even.
UMER1_BF16_TARGET void round_to(Bits* out, const float* values, int64_t n) {
  for (int64_t j = 0; j < n; j += 16) {
    const int64_t left = n - j;
    const __mmask16 mask = left >= 16 ? 0xffff : (1 << left) - 1;
    const __m512 wide = _mm512_maskz_loadu_ps(mask, values + j);
    _mm256_mask_storeu_epi16(out + j, mask, (__m256i)_mm512_cvtneps_pbh(wide));
  }
}

Bits rounded(float value) {
  Bits result;
  round_to(&result, &value, 1);
  return result;
}

// Adds other pools to n running ones.
UMER1_BF16_TARGET void merge(int64_t n, float scale, float* best, float* total,
                             const float* other_best, const float* other_total) {
  const float sign = scale < 0.0f ? -1.0f : 1.0f;
  const Lanes nothing = Lanes{} - kInfinity<float>;
  for (int64_t j = 0; j < n; j += kLanes) {
    const Lanes mine = lanes::load(best + j, n - j) * sign;
    const Lanes theirs = lanes::load(other_best + j, n - j) * sign;
    const Lanes after = mine > theirs ? mine : theirs;
    const Lanes factor = Lanes{} + scale * sign;
    const Lanes my_part = mine == nothing ? Lanes{} : lanes::exp_lanes((mine - after) * factor);
    const Lanes part = theirs == nothing ? Lanes{} : lanes::exp_lanes((theirs - after) * factor);
    lanes::store(total + j,
                 lanes::load(total + j, n - j) * my_part +
                     lanes::load(other_total + j, n - j) * part,
                 n - j);
    lanes::store(best + j, after * sign, n - j);
  }
}

// A row's running pool over the slabs.
struct RunningPool {
  float *best, *total, *moment;  // moment may be null

  void add(int64_t i, float scale, float slab_best, float slab_total, float slab_moment) const {
    if (slab_total == 0.0f) return;
    const float old_best = best[i];
    const bool first = total[i] == 0.0f;
    const bool higher = first || (slab_best - old_best) * scale > 0.0f;
    best[i] = higher ? slab_best : old_best;
    const float old_shift = first ? 0.0f : (old_best - best[i]) * scale;
    const float shift = (slab_best - best[i]) * scale;
    const float old_part = std::exp(old_shift), part = std::exp(shift);
    if (moment != nullptr) {
      const float kept = old_part > 0.0f ? old_part * (moment[i] + old_shift * total[i]) : 0.0f;
      const float added = part > 0.0f ? part * (slab_moment + shift * slab_total) : 0.0f;
      moment[i] = kept + added;
    }
    total[i] = old_part * total[i] + part * slab_total;
  }
};

// Rows and candidates of one call.
struct Product {
  int64_t count, candidates, dimension;
  Tensor rows_tensor, candidates_tensor;
  const Bits *rows, *columns;
  int64_t slabs, panels;
  std::vector<Bits> packed;

  Product(const Tensor& rows_, const Tensor& candidates_)
      : count(rows_.size(0)),
        candidates(candidates_.size(0)),
        dimension(rows_.size(1)),
        rows_tensor(torch::stable::contiguous(rows_)),
        candidates_tensor(torch::stable::contiguous(candidates_)),
        rows(static_cast<const Bits*>(rows_tensor.data_ptr())),
        columns(static_cast<const Bits*>(candidates_tensor.data_ptr())),
        slabs((candidates + kSlab - 1) / kSlab),
        panels((count + kRows - 1) / kRows),
        packed(bf16::panels(std::min(kSlab, candidates)) * bf16::panel_size(dimension)) {}

  // use(panel, first row, rows, x [rows, kSlab]) for every panel of rows of this slab.
  template <typename Use>
  void slab(int64_t number, const Use& use) {
    const int64_t first = number * kSlab;
    const int64_t width = std::min(kSlab, candidates - first);
    const int64_t blocks = bf16::panels(width), size = bf16::panel_size(dimension);
    torch::stable::parallel_for(0, blocks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t block = begin; block < end; ++block) {
        const int64_t column = first + block * bf16::kPanel;
        bf16::pack_panel(columns + column * dimension, dimension,
                         std::min<int64_t>(bf16::kPanel, candidates - column), dimension,
                         packed.data() + block * size);
      }
    });
    torch::stable::parallel_for(0, panels, 1, [&](int64_t begin, int64_t end) {
      std::vector<float> x(kRows * kSlab);
      for (int64_t panel = begin; panel < end; ++panel) {
        const int64_t row = panel * kRows, rows_here = std::min(kRows, count - row);
        bf16::multiply(rows + row * dimension, dimension, rows_here, dimension, packed.data(),
                       blocks, x.data(), kSlab);
        use(panel, row, rows_here, x.data());
      }
    });
  }
};

}  // namespace
}  // namespace umer1
#endif
