// x_ij = <rows_i, candidates_j> of bfloat16 vectors, accumulated in float32 and kept there: aten's CPU
// product would round it to bfloat16. AVX512-BF16 only; `bf16_product_available` says so at run time.
//
// Legend: D dimension. Candidates are packed in panels of 64: for each pair of dimensions, the 64
// candidates' pairs side by side, so that one register of 16 pairs meets one broadcast pair of a row.

#pragma once

#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace umer1::bf16 {

using Bits = uint16_t;  // a bfloat16

constexpr int kPanel = 64;    // candidates of a packed panel: four registers
constexpr int kTileRows = 6;  // rows of a register tile: 6 x 4 accumulators

inline int64_t pairs(int64_t dimension) { return (dimension + 1) / 2; }
inline int64_t panels(int64_t candidates) { return (candidates + kPanel - 1) / kPanel; }
inline int64_t panel_size(int64_t dimension) { return pairs(dimension) * kPanel * 2; }

#if defined(__x86_64__)
#define UMER1_BF16_TARGET \
  __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx512bf16,avx2,fma")))

inline bool available() {
  return __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
}

// Sixteen registers of sixteen 32-bit values, transposed in place.
UMER1_BF16_TARGET inline void transpose(__m512i (&r)[16]) {
  __m512i t[16];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
    t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
  }
  for (int i = 0; i < 4; ++i) {
    r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
    r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
    r[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
    r[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
  }
}

// `count` <= 64 candidates of D numbers, candidate j at candidate_at(j) -> one panel; missing candidates
// and an odd dimension are 0.
template <typename CandidateAt>
UMER1_BF16_TARGET inline void pack_scattered(const CandidateAt& candidate_at, int64_t count,
                                             int64_t dimension, Bits* packed) {
  for (int64_t d = 0; d < dimension; d += 32) {
    const int64_t left = dimension - d;
    const __mmask32 mask = left >= 32 ? ~__mmask32(0) : (__mmask32(1) << left) - 1;
    const int64_t rows = left >= 32 ? 16 : (left + 1) / 2;
    for (int block = 0; block < kPanel / 16; ++block) {
      __m512i values[16];
      for (int k = 0; k < 16; ++k) {
        const int64_t j = block * 16 + k;
        values[k] = j < count ? _mm512_maskz_loadu_epi16(mask, candidate_at(j) + d)
                              : _mm512_setzero_si512();
      }
      transpose(values);
      for (int64_t k = 0; k < rows; ++k) {
        _mm512_storeu_si512(packed + ((d / 2 + k) * kPanel + block * 16) * 2, values[k]);
      }
    }
  }
}

// The same for candidates [count, D] in memory.
UMER1_BF16_TARGET inline void pack_panel(const Bits* candidates, int64_t stride, int64_t count,
                                         int64_t dimension, Bits* packed) {
  const auto candidate_at = [=](int64_t j) { return candidates + j * stride; };
  pack_scattered(candidate_at, count, dimension, packed);
}

// One pair of dimensions of ROWS rows against one panel.
template <int ROWS>
UMER1_BF16_TARGET __attribute__((always_inline)) inline void add_pair(__m512 (&sums)[ROWS][4],
                                                                      const int32_t (&rows)[ROWS],
                                                                      const Bits* packed) {
  __m512bh columns[4];
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k) columns[k] = (__m512bh)_mm512_loadu_si512(packed + k * 32);
#pragma GCC unroll 8
  for (int i = 0; i < ROWS; ++i) {
    const __m512bh row = (__m512bh)_mm512_set1_epi32(rows[i]);
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) sums[i][k] = _mm512_dpbf16_ps(sums[i][k], row, columns[k]);
  }
}

// ROWS rows against one panel: out [ROWS, 64] with row stride `out_stride`. continued: `out` holds the
// sums over the dimensions before these, and the sums go on from there.
template <int ROWS>
UMER1_BF16_TARGET inline void tile(const Bits* rows, int64_t stride, int64_t dimension,
                                   const Bits* packed, float* out, int64_t out_stride,
                                   bool continued) {
  __m512 sums[ROWS][4];
  for (int i = 0; i < ROWS; ++i) {
    for (int k = 0; k < 4; ++k) {
      sums[i][k] = continued ? _mm512_loadu_ps(out + i * out_stride + k * 16) : _mm512_setzero_ps();
    }
  }
  int32_t values[ROWS];
  for (int64_t pair = 0; pair < dimension / 2; ++pair) {
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; ++i) std::memcpy(&values[i], rows + i * stride + pair * 2, 4);
    add_pair<ROWS>(sums, values, packed + pair * kPanel * 2);
  }
  if (dimension % 2 != 0) {  // the other half of the last pair is 0
    for (int i = 0; i < ROWS; ++i) values[i] = rows[i * stride + dimension - 1];
    add_pair<ROWS>(sums, values, packed + (dimension / 2) * kPanel * 2);
  }
  for (int i = 0; i < ROWS; ++i) {
    for (int k = 0; k < 4; ++k) _mm512_storeu_ps(out + i * out_stride + k * 16, sums[i][k]);
  }
}

// Any number of rows against one panel: out [count, 64].
UMER1_BF16_TARGET inline void multiply_panel(const Bits* rows, int64_t stride, int64_t count,
                                             int64_t dimension, const Bits* packed, float* out,
                                             int64_t out_stride, bool continued = false) {
  for (int64_t i = 0; i < count; i += kTileRows) {
    const Bits* some = rows + i * stride;
    float* sums = out + i * out_stride;
    switch (count - i) {
      case 1: tile<1>(some, stride, dimension, packed, sums, out_stride, continued); break;
      case 2: tile<2>(some, stride, dimension, packed, sums, out_stride, continued); break;
      case 3: tile<3>(some, stride, dimension, packed, sums, out_stride, continued); break;
      case 4: tile<4>(some, stride, dimension, packed, sums, out_stride, continued); break;
      case 5: tile<5>(some, stride, dimension, packed, sums, out_stride, continued); break;
      default: tile<kTileRows>(some, stride, dimension, packed, sums, out_stride, continued);
    }
  }
}

// `count` rows against `panel_count` packed panels: out [count, 64 * panel_count].
UMER1_BF16_TARGET inline void multiply(const Bits* rows, int64_t stride, int64_t count,
                                       int64_t dimension, const Bits* packed, int64_t panel_count,
                                       float* out, int64_t out_stride) {
  for (int64_t panel = 0; panel < panel_count; ++panel) {
    multiply_panel(rows, stride, count, dimension, packed + panel * panel_size(dimension),
                   out + panel * kPanel, out_stride);
  }
}
#else
inline bool available() { return false; }
#endif

}  // namespace umer1::bf16
