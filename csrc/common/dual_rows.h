// A row of a pair in phase 2 of the small dual InfoNCE kernel: its pools over all tiles, and its terms.

#pragma once

#include <limits>

#include "common/dual_pools.h"
#include "common/dual_schedule.h"
#include "common/dual_terms.h"

namespace umer1::dual {

// A row with all that its terms were made of.
struct RowState {
  RowTerms terms;
  float row_best, column_best, own, weight;
};

// A pool over a whole row or column, in parts: one of each tile.
struct PoolParts {
  Pool<float> part[kMostTiles];

  // All on their way at once.
  UMER1_HOST_DEVICE void read(const Pool<float>* from, int count, int64_t stride) {
    UMER1_UNROLL
    for (int k = 0; k < kMostTiles; ++k) {
      part[k] = k < count ? read_fresh(from + k * stride) : no_negatives(1.0f);
    }
  }
  UMER1_HOST_DEVICE Pool<float> whole(const Exponential<float>& exponential) const {
    Pool<float> pool = no_negatives(1.0f);
    UMER1_UNROLL
    for (int k = 0; k < kMostTiles; ++k) pool.best = fmaxf(pool.best, part[k].best);
    UMER1_UNROLL
    for (int k = 0; k < kMostTiles; ++k) {
      const float total = part[k].total * exponential(part[k].best - pool.best);
      pool.total += part[k].total == 0.0f ? 0.0f : total;
    }
    return pool;
  }
};

UMER1_HOST_DEVICE inline RowState row_state(const Problem& problem, const Workspace& workspace,
                                            int pair, int row, float factor) {
  const int64_t rows = padded_queries(problem), columns = padded_targets(problem);
  const int across = column_tiles(problem), down = row_tiles(problem);
  const int own_target = problem.own_target(row), column = most(own_target, 0);
  PoolParts of_row, of_column;
  of_row.read(workspace.row_pool + pair * across * rows + row, across, rows);
  of_column.read(workspace.column_pool + pair * down * columns + column, down, columns);
  RowState state;
  state.own = own_target >= 0 ? read_fresh(workspace.own + pair * rows + row)
                              : std::numeric_limits<float>::quiet_NaN();
  state.weight = problem.weight_of(pair, row) * factor;
  const Exponential<float> exponential = exponential_of(problem);
  const Pool<float> by_row = of_row.whole(exponential), by_column = of_column.whole(exponential);
  state.row_best = by_row.best;
  state.column_best = by_column.best;
  state.terms = row_terms(by_row, by_column, state.own, fabsf(problem.scale_value()),
                          state.weight, problem.softmaxes);
  return state;
}

}  // namespace umer1::dual
