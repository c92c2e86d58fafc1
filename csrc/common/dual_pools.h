// Logits of one tile in shared memory: who is whose negative, and pools over its rows and columns.
//
// They lie there times the sign of the scale, so that the largest is the best for any scale.

#pragma once

#include "common/dual_schedule.h"
#include "common/softmax_pool.h"

namespace umer1::dual {

// Stands for a logit that is no negative: its exponential is 0, and it is finite, as what is
// multiplied with that 0 must be.
constexpr float kMasked = -3e38f;

// float32 [128, 128]. The permutation of four columns at a time, the same in every eighth row, keeps
// three accesses free of bank conflicts: two sums of a product a thread, four numbers of a row a
// thread, one of a column.
constexpr int kPeriod = 8;

UMER1_HOST_DEVICE inline int logit_index(int row, int column) {
  return row * kSide + (column ^ (((row & 3) << 3) | (row & 4)));
}

// Read and written in one instruction.
struct alignas(8) TwoNumbers {
  float number[2];
};
struct alignas(16) FourNumbers {
  float number[4];
};

UMER1_HOST_DEVICE inline FourNumbers four_logits(const float* logits, int row, int column) {
  return *reinterpret_cast<const FourNumbers*>(logits + logit_index(row, column));
}

// With a scale next to nothing all negatives are alike, and what is masked stays it.
UMER1_HOST_DEVICE inline Exponential<float> exponential_of(const Problem& problem) {
  return Exponential<float>(fmaxf(fabsf(problem.scale_value()), 1e-30f));
}

// Which entries of a tile are no negatives of their row and column.
struct TileMasks {
  int own[kSide];  // the row's own column in the tile, or -1
  int64_t row_id[kSide], column_id[kSide];
};

UMER1_HOST_DEVICE inline void load_masks(const Problem& problem, const LogitTile& tile,
                                         TileMasks& masks, int thread) {
  const bool ids = problem.query_id != nullptr;
  if (thread < kSide) {
    if (thread >= tile.rows) return;
    const int own = problem.own_target(tile.row + thread) - tile.column;
    masks.own[thread] = own >= 0 && own < tile.columns ? own : -1;
    if (ids) masks.row_id[thread] = problem.query_id[tile.row + thread];
  } else if (ids && thread - kSide < tile.columns) {
    masks.column_id[thread - kSide] = problem.target_id[tile.column + thread - kSide];
  }
}

// Masks what does not exist of the row and, without ids, its own logit, which is returned.
template <bool kIds>
UMER1_HOST_DEVICE inline float mask_row(float* logits, const LogitTile& tile,
                                        const TileMasks& masks, int row) {
  for (int column = tile.columns; column < kSide; ++column) {
    logits[logit_index(row, column)] = kMasked;
  }
  if (masks.own[row] < 0) return kMasked;
  float& own = logits[logit_index(row, masks.own[row])];
  const float value = own;
  if (!kIds) own = kMasked;
  return value;
}

// Masks the rows up to the next multiple of 8, which do not exist.
UMER1_HOST_DEVICE inline void mask_column(float* logits, const LogitTile& tile, int column) {
  for (int row = tile.rows; row % kPeriod != 0; ++row) logits[logit_index(row, column)] = kMasked;
}

// The logit x as a negative. With ids the tile keeps what they mask: it has a cosine.
template <bool kIds>
UMER1_HOST_DEVICE inline float negative(float x, const TileMasks& masks, int row, int column) {
  if constexpr (!kIds) return x;
  const bool counts =
      (column != masks.own[row]) & (masks.row_id[row] != masks.column_id[column]);
  return counts ? x : kMasked;
}

// The pool of the row over columns [begin, end), and to the next multiple of 4; `begin` is one.
template <bool kIds>
UMER1_HOST_DEVICE Pool<float> row_pool(const float* logits, const TileMasks& masks, int row,
                                       int begin, int end, const Exponential<float>& exponential) {
  float best = kMasked, total = 0.0f;
  for (int column = begin; column < end; column += 4) {
    const FourNumbers x = four_logits(logits, row, column);
    UMER1_UNROLL
    for (int k = 0; k < 4; ++k) {
      best = fmaxf(best, negative<kIds>(x.number[k], masks, row, column + k));
    }
  }
  const float offset = best == kMasked ? 0.0f : best;
  for (int column = begin; column < end; column += 4) {
    const FourNumbers x = four_logits(logits, row, column);
    UMER1_UNROLL
    for (int k = 0; k < 4; ++k) {
      total += exponential(negative<kIds>(x.number[k], masks, row, column + k) - offset);
    }
  }
  return {best == kMasked ? -kInfinity<float> : best, total};
}

// The pool of the column over rows [begin, end), and to the next multiple of 8; `begin` is one.
template <bool kIds>
UMER1_HOST_DEVICE Pool<float> column_pool(const float* logits, const TileMasks& masks, int column,
                                          int begin, int end,
                                          const Exponential<float>& exponential) {
  float best = kMasked, total = 0.0f;
  for (int row = begin; row < end; row += kPeriod) {
    UMER1_UNROLL
    for (int k = 0; k < kPeriod; ++k) {
      const float x = logits[row * kSide + logit_index(k, column)];
      best = fmaxf(best, negative<kIds>(x, masks, row + k, column));
    }
  }
  const float offset = best == kMasked ? 0.0f : best;
  for (int row = begin; row < end; row += kPeriod) {
    UMER1_UNROLL
    for (int k = 0; k < kPeriod; ++k) {
      const float x = logits[row * kSide + logit_index(k, column)];
      total += exponential(negative<kIds>(x, masks, row + k, column) - offset);
    }
  }
  return {best == kMasked ? -kInfinity<float> : best, total};
}

}  // namespace umer1::dual
