// Decode attention on bfloat16 keys and values by AVX512-BF16 products with float32 sums.
//
// Include inside one translation unit: it compiles lanes.inc for AVX512-BF16.

#pragma once

#include "cpu/bf16_product.h"
#include "cpu/decode_tile.h"
#include "cpu/lanes.h"

#if defined(__x86_64__)
namespace umer1 {
namespace {

using bf16::Bits;

#define UMER1_VARIANT bf16_lanes
#define UMER1_TARGET UMER1_BF16_TARGET
#include "cpu/lanes.inc"
#undef UMER1_VARIANT
#undef UMER1_TARGET

// `count` values of D numbers -> panels of 64 numbers: for each pair of values, their numbers side by
// side, as bf16::multiply wants the columns of a product over values.
UMER1_BF16_TARGET inline void pack_values(const Bits* const* values, int64_t count,
                                          int64_t dimension, Bits* packed) {
  __m512i low, high;  // places of 16 pairs in two registers of 32 numbers
  {
    Bits places[64];
    for (int i = 0; i < 32; ++i) {
      places[2 * i] = i;
      places[2 * i + 1] = i + 32;
    }
    low = _mm512_loadu_si512(places);
    high = _mm512_loadu_si512(places + 32);
  }
  for (int64_t n = 0; n < count; n += 2) {
    for (int64_t d = 0; d < bf16::panels(dimension) * bf16::kPanel; d += 32) {
      const int64_t left = dimension - d;
      const __mmask32 mask = left >= 32 ? ~__mmask32(0)
                             : left > 0 ? (__mmask32(1) << left) - 1
                                        : __mmask32(0);
      const __m512i one = _mm512_maskz_loadu_epi16(mask, values[n] + d);
      const __m512i other = n + 1 < count ? _mm512_maskz_loadu_epi16(mask, values[n + 1] + d)
                                          : _mm512_setzero_si512();
      Bits* out = packed + d / bf16::kPanel * bf16::panel_size(count) +
                  (n / 2 * bf16::kPanel + d % bf16::kPanel) * 2;
      _mm512_storeu_si512(out, _mm512_permutex2var_epi16(one, low, other));
      _mm512_storeu_si512(out + 32, _mm512_permutex2var_epi16(one, high, other));
    }
  }
}

// scores [count] -> weights in bfloat16, their best score, and the sum of what was kept of them: the
// weights of a row add up to 1 exactly as they multiply the values.
UMER1_BF16_TARGET inline void weigh_row(const float* scores, int64_t count, float scale,
                                        Bits* weights, float* best_out, float* total_out) {
  const Lanes nothing = Lanes{} - kInfinity<float>;
  Lanes bests = nothing;
  for (int64_t j = 0; j < count; j += kLanes) {
    const LaneMask inside = kLaneIndex < (int32_t)std::min<int64_t>(kLanes, count - j);
    const Lanes score = inside ? bf16_lanes::load(scores + j, count - j) : nothing;
    bests = score > bests ? score : bests;
  }
  float best = bests[0];
  for (int k = 1; k < kLanes; ++k) best = bests[k] > best ? bests[k] : best;
  Lanes total = {};
  for (int64_t j = 0; j < count; j += kLanes) {
    const LaneMask inside = kLaneIndex < (int32_t)std::min<int64_t>(kLanes, count - j);
    const Lanes score = bf16_lanes::load(scores + j, count - j);
    const Lanes weight = inside ? bf16_lanes::exp_lanes((score - best) * scale) : Lanes{};
    const __m256i kept = (__m256i)_mm512_cvtneps_pbh((__m512)weight);
    _mm256_storeu_si256((__m256i*)(weights + j), kept);  // rows of weights are padded
    total += (Lanes)_mm512_slli_epi32(_mm512_cvtepu16_epi32(kept), 16);
  }
  *best_out = best;
  *total_out = bf16_lanes::sum_of(total);
}

struct Bf16Scratch {
  Memory<Bits> queries, keys, values, weights;
  Memory<float> scores;

  Bf16Scratch(int64_t dimension, int64_t most_keys)
      : queries(memory<Bits>(kDecodeRows * dimension)),
        keys(memory<Bits>(bf16::panels(most_keys) * bf16::panel_size(dimension))),
        values(memory<Bits>(bf16::panels(dimension) * bf16::panel_size(most_keys))),
        weights(memory<Bits>(kDecodeRows * bf16::panels(most_keys) * bf16::kPanel)),
        scores(memory<float>(kDecodeRows * bf16::panels(most_keys) * bf16::kPanel)) {}
};

UMER1_BF16_TARGET inline void attend_bf16(const DecodeTile<Bits>& tile, Bf16Scratch& scratch) {
  const int64_t size = tile.dimension, count = tile.count;
  const int64_t panels = bf16::panels(count), width = panels * bf16::kPanel;
  for (int64_t panel = 0; panel < panels; ++panel) {
    const Bits* const* keys = tile.keys + panel * bf16::kPanel;
    bf16::pack_scattered([=](int64_t j) { return keys[j]; },
                         std::min<int64_t>(bf16::kPanel, count - panel * bf16::kPanel), size,
                         scratch.keys.get() + panel * bf16::panel_size(size));
  }
  pack_values(tile.values, count, size, scratch.values.get());
  for (int64_t first = 0; first < tile.rows; first += kDecodeRows) {
    const int64_t rows = std::min(kDecodeRows, tile.rows - first);
    for (int64_t m = 0; m < rows; ++m) {
      std::memcpy(scratch.queries.get() + m * size, tile.queries[first + m], size * sizeof(Bits));
    }
    bf16::multiply(scratch.queries.get(), size, rows, size, scratch.keys.get(), panels,
                   scratch.scores.get(), width);
    for (int64_t m = 0; m < rows; ++m) {
      weigh_row(scratch.scores.get() + m * width, count, tile.scale,
                scratch.weights.get() + m * width, tile.best + first + m, tile.total + first + m);
    }
    bf16::multiply(scratch.weights.get(), width, rows, count, scratch.values.get(),
                   bf16::panels(size), tile.out + first * tile.stride, tile.stride);
  }
}

}  // namespace
}  // namespace umer1
#endif
