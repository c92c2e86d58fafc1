// Phase 2 of the small dual InfoNCE kernel, for one block: pools over whole rows and columns from
// those of the tiles, losses, and each kept tile of logits turned into its gradient.

#pragma once

#include "common/bfloat16.h"
#include "common/dual_pools.h"
#include "common/dual_rows.h"
#include "common/dual_schedule.h"

namespace umer1::dual {

constexpr int kPartThreads = 16;  // sums over threads are taken sixteen by sixteen

// What the gradient of a logit needs of its row, and of its column: coefficients of d loss / d x. x
// and own are times the scale's sign.
struct alignas(16) Line {
  float best, coefficient, own, inverse_norm;
};

// Without a coefficient all exponentials are 0, and nothing is infinite.
UMER1_HOST_DEVICE inline Line line_of(float best, float coefficient, float own,
                                      float inverse_norm) {
  if (coefficient == 0.0f) return {-kMasked, 0.0f, 0.0f, inverse_norm};
  return {best, coefficient, own, inverse_norm};
}

// In shared memory where phase 1 had operand tiles.
struct SoftmaxScratch {
  TileMasks masks;
  Line rows[kSide], columns[kSide];
  float own_grad[kSide];  // d loss / d x of the row's own pair
  float sums[kTileSums][kThreads];
  float parts[kTileSums][kPartThreads];
};

// Adds up sums[quantity][all threads] in one order; parts[quantity] holds the last sixteen.
template <class Block>
UMER1_HOST_DEVICE void add_parts(Block& block, SoftmaxScratch& scratch, int quantities) {
  block.each([&](int thread) {
    const int quantity = thread / kPartThreads, part = thread % kPartThreads;
    if (quantity >= quantities) return;
    const float* sums = scratch.sums[quantity] + part * (kThreads / kPartThreads);
    float sum = 0.0f;
    for (int k = 0; k < kThreads / kPartThreads; ++k) sum += sums[k];
    scratch.parts[quantity][part] = sum;
  });
}

UMER1_HOST_DEVICE inline float sum_of_parts(const SoftmaxScratch& scratch, int quantity) {
  float sum = 0.0f;
  for (int part = 0; part < kPartThreads; ++part) sum += scratch.parts[quantity][part];
  return sum;
}

// What a row's weight is multiplied with.
template <class Block>
UMER1_HOST_DEVICE float weight_factor(Block& block, const Problem& problem,
                                      SoftmaxScratch& scratch) {
  if (problem.reduction != Reduction::kMean) return 1.0f;
  if (problem.weight == nullptr && problem.label == nullptr) {
    return 1.0f / static_cast<float>(problem.queries);
  }
  block.each([&](int thread) {
    float sum = 0.0f;
    for (int row = thread; row < problem.queries; row += kThreads) sum += problem.weight_of(0, row);
    scratch.sums[0][thread] = sum;
  });
  add_parts(block, scratch, 1);
  const float total = sum_of_parts(scratch, 0);
  return total != 0.0f ? 1.0f / total : 0.0f;
}

// d z / d x, multiplied into the coefficients; 1 at a scale of 0, whose own gradient needs them.
UMER1_HOST_DEVICE inline float fold_of(const Problem& problem) {
  const float scale = problem.scale_value();
  return scale == 0.0f ? 1.0f : scale;
}

// Row of the tile: its line, and its part of the sums.
UMER1_HOST_DEVICE inline void prepare_row(const Problem& problem, const Workspace& workspace,
                                          const LogitTile& tile, float factor,
                                          SoftmaxScratch& scratch, int line) {
  scratch.rows[line] = line_of(0.0f, 0.0f, 0.0f, 0.0f);
  scratch.own_grad[line] = 0.0f;
  if (line >= tile.rows) return;
  const int row = tile.row + line;
  const int64_t place = tile.pair * padded_queries(problem) + row;
  const RowState state = row_state(problem, workspace, tile.pair, row, factor);
  const bool live = state.weight != 0.0f;
  const float inverse_norm = live && tile.pair < problem.sides
                                 ? read_fresh(workspace.query_norm + place)
                                 : 0.0f;
  const float fold = fold_of(problem);
  scratch.rows[line] =
      line_of(state.row_best, state.terms.of_row * fold, state.own, inverse_norm);
  scratch.own_grad[line] = state.terms.pull * fold;
  if (tile.column_tile != 0) return;
  const float loss = live ? state.terms.loss * state.weight : 0.0f;
  workspace.row_loss[place] = loss;
  scratch.sums[kLossSum][line] = loss;
  scratch.sums[kHitSum][line] = live && state.terms.hit ? 1.0f : 0.0f;
  scratch.sums[kCountSum][line] = live ? 1.0f : 0.0f;
  if (inverse_norm == 0.0f) return;
  const int64_t target = tile.pair * padded_targets(problem) + most(problem.own_target(row), 0);
  scratch.sums[kOwnCosineSum][line] = state.own * sign_of(problem.scale_value()) * inverse_norm *
                                      read_fresh(workspace.target_norm + target);
}

// Column of the tile. Without labels it is the own one of row column - offset, or of none.
UMER1_HOST_DEVICE inline void prepare_column(const Problem& problem, const Workspace& workspace,
                                             const LogitTile& tile, float factor,
                                             SoftmaxScratch& scratch, int line) {
  scratch.columns[line] = line_of(0.0f, 0.0f, 0.0f, 0.0f);
  if (line >= tile.columns) return;
  const int column = tile.column + line;
  float inverse_norm = 0.0f;
  if (tile.pair < problem.sides) {
    inverse_norm =
        read_fresh(workspace.target_norm + tile.pair * padded_targets(problem) + column);
  }
  scratch.columns[line] = line_of(0.0f, 0.0f, 0.0f, inverse_norm);
  const int64_t row = column - problem.label_offset;
  if (!problem.softmaxes.t2q || problem.label != nullptr || row < 0 || row >= problem.queries) {
    return;
  }
  const RowState state =
      row_state(problem, workspace, tile.pair, static_cast<int>(row), factor);
  scratch.columns[line] = line_of(state.column_best, state.terms.of_column * fold_of(problem),
                                  state.own, inverse_norm);
}

struct alignas(8) FourBfloat16 {
  uint32_t words[2];
};

// A softmax's part of d loss / d x at one logit; adds its part of d loss / d scale, times the scale.
UMER1_HOST_DEVICE inline float part_of(const Line& line, float x,
                                       const Exponential<float>& exponential, float& slope) {
  const float part = line.coefficient * exponential(x - line.best);
  // relative to the own x, whose gradient is minus the sum of all others
  slope += part * (x - line.own);
  return part;
}

// Four columns of a row of logits and of their gradients.
struct FourLogits {
  float grad[4];
  float slope, cosines;  // over the four: of the scale, of all other pairs
};

// `own`: which of the four is the row's own pair, if any is.
template <bool kIds>
UMER1_HOST_DEVICE inline FourLogits four_gradients(const FourNumbers& x, const Line& line,
                                                   const Line (&columns)[4], int own,
                                                   const TileMasks& masks, int row, int column,
                                                   const Exponential<float>& exponential) {
  FourLogits result = {{}, 0.0f, 0.0f};
  UMER1_UNROLL
  for (int k = 0; k < 4; ++k) {
    const float z = negative<kIds>(x.number[k], masks, row, column + k);
    const float by_row = part_of(line, z, exponential, result.slope);
    result.grad[k] = by_row + part_of(columns[k], z, exponential, result.slope);
    result.cosines += x.number[k] * columns[k].inverse_norm;
  }
  if (own < 0 || own >= 4) return result;
  result.cosines = 0.0f;
  UMER1_UNROLL
  for (int k = 0; k < 4; ++k) {
    if (k != own) result.cosines += x.number[k] * columns[k].inverse_norm;
  }
  return result;
}

// Gradients of the tile's logits; each thread has four columns and every eighth row.
template <bool kIds>
UMER1_HOST_DEVICE void take_gradient(const Problem& problem, const LogitTile& tile,
                                     const float* logits, SoftmaxScratch& scratch, int thread) {
  const float scale = problem.scale_value();
  const Exponential<float> exponential = exponential_of(problem);
  const int first = thread % 32 * 4;
  Line columns[4];
  UMER1_UNROLL
  for (int k = 0; k < 4; ++k) columns[k] = scratch.columns[first + k];
  const int64_t stride = padded_targets(problem);
  uint16_t* out = problem.logit_grad;
  if (out != nullptr) {
    out += (static_cast<int64_t>(tile.pair) * padded_queries(problem) + tile.row) * stride +
           tile.column + first;
  }
  float slope = 0.0f, cosines = 0.0f;
  for (int row = thread / 32; row < kSide; row += kThreads / 32) {
    FourLogits found = {{}, 0.0f, 0.0f};
    const Line line = scratch.rows[row];
    // a row that does not count may hold anything, unless it is a candidate itself
    const bool counts = line.coefficient != 0.0f || problem.softmaxes.t2q;
    if (row < tile.rows && (counts || line.inverse_norm != 0.0f)) {
      const int own = scratch.masks.own[row] - first;
      found = four_gradients<kIds>(four_logits(logits, row, first), line, columns, own,
                                   scratch.masks, row, first, exponential);
      if (own >= 0 && own < 4) {
        UMER1_UNROLL
        for (int k = 0; k < 4; ++k) {
          if (k == own) found.grad[k] = scratch.own_grad[row];
        }
      }
      slope += found.slope;
      cosines += line.inverse_norm * found.cosines;
    }
    if (out != nullptr) {
      // at a scale of 0 all but the scale's own gradient are 0
      const float by = scale == 0.0f ? 0.0f : 1.0f;
      *reinterpret_cast<FourBfloat16*>(out + row * stride) = {
          pack_bfloat16(found.grad[0] * by, found.grad[1] * by),
          pack_bfloat16(found.grad[2] * by, found.grad[3] * by)};
    }
  }
  scratch.sums[kSlopeSum][thread] = slope / fold_of(problem) * sign_of(scale);
  scratch.sums[kCosineSum][thread] = cosines * sign_of(scale);
}

template <class Block>
UMER1_HOST_DEVICE void second_phase(Block& block, const Problem& problem,
                                    const Workspace& workspace, const Launch& launch) {
  auto& scratch = *reinterpret_cast<SoftmaxScratch*>(block.shared() + launch.logits.begin);
  const float factor = weight_factor(block, problem, scratch);
  for (int kept = 0; kept < launch.tiles_per_block; ++kept) {
    const int number = block.id() + kept * block.all();
    if (number >= logit_tiles(problem)) return;
    const LogitTile tile = logit_tile(problem, number);
    const float* logits = reinterpret_cast<const float*>(block.shared() + kept * kTileBytes);
    block.each([&](int thread) {
      load_masks(problem, tile, scratch.masks, thread);
      for (int k = 0; k < kTileSums; ++k) scratch.sums[k][thread] = 0.0f;
      if (thread < kSide) {
        prepare_row(problem, workspace, tile, factor, scratch, thread);
      } else {
        prepare_column(problem, workspace, tile, factor, scratch, thread - kSide);
      }
    });
    block.each([&](int thread) {
      if (problem.query_id != nullptr) {
        take_gradient<true>(problem, tile, logits, scratch, thread);
      } else {
        take_gradient<false>(problem, tile, logits, scratch, thread);
      }
    });
    add_parts(block, scratch, kTileSums);
    block.each([&](int thread) {
      if (thread >= kTileSums) return;
      workspace.tile_sum[number * kTileSums + thread] = sum_of_parts(scratch, thread);
    });
  }
}

}  // namespace umer1::dual
