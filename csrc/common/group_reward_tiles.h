// A tile of similarities in the group_reward kernel: its lines, its products, what is read off it.
//
// `Block` runs a function for each of its kWorkers workers and then waits for all: threads of a
// CUDA block, or a loop. `Products` fills BlockState::slices for the tile in its lines.

#pragma once

#include "common/group_reward_schedule.h"

namespace umer1::reward {

// Depth is added up in slices, by 32 lanes each, 4 consecutive elements at a time: one order for
// all pairs, so equal vectors get equal similarities.
constexpr int kSlices = 4, kLanes = 32, kVector = 4;
constexpr int kDepthStep = kSlices * kLanes * kVector;

UMER1_HOST_DEVICE inline int first_depth(int slice, int lane) {
  return (slice * kLanes + lane) * kVector;
}

// Rows (or columns) of a tile: which candidate, which of its own, which pair; -1 for none. A
// rollout that does not count is nobody's own and has no pair.
template <int kLines>
struct Lines {
  int candidate[kLines], own[kLines], pair[kLines];
};

// What phase 3 knows of a group; [own rollout][partner].
struct Group {
  float similarity[kMostRollouts][kMostRollouts + 1];
  int ahead[kMostRollouts][kMostRollouts + 1];
  double negative_sum[kMostRollouts];
  int negatives[kMostRollouts], reached[kMostRollouts], in_top[kMostRollouts];
  float reward[kMostRollouts];
  bool counted[kMostRollouts], partner_counted[kMostRollouts];
};

// On chip, one per block.
struct BlockState {
  union {
    float tiles[kKeptTiles][kTilePairs];
    Group group;  // phase 3
  };
  alignas(16) float slices[kSlices][kTilePairs];
  Part row_part[kTaskSide], column_part[kTaskSide];
  Totals totals[kLanes];
  Lines<kTileRows> rows;
  Lines<kTileColumns> columns;
  float threshold;
};

UMER1_HOST_DEVICE inline bool counts(const bool* valid, int candidate) {
  return valid == nullptr || valid[candidate];
}

template <int kLines>
UMER1_HOST_DEVICE void describe_line(const Problem& problem, const bool* valid, bool own_only,
                                     bool others_only, int position, Lines<kLines>& lines,
                                     int line) {
  const int limit = own_only      ? problem.count
                    : others_only ? problem.candidates - problem.count
                                  : problem.candidates;
  lines.candidate[line] = lines.own[line] = lines.pair[line] = -1;
  if (position >= limit) return;
  int candidate = position;
  if (own_only || (others_only && position >= problem.first)) {
    candidate += own_only ? problem.first : problem.count;
  }
  if (!counts(valid, candidate)) return;
  const int own = candidate - problem.first;
  lines.candidate[line] = candidate;
  lines.own[line] = own >= 0 && own < problem.count ? own : -1;
  lines.pair[line] = candidate / problem.size;
}

UMER1_HOST_DEVICE inline void describe(const Problem& problem, const Tile& tile, BlockState& state,
                                       int worker) {
  if (worker < kTileRows) {
    describe_line(problem, problem.query_valid, tile.own_rows, !tile.own_rows, tile.row + worker,
                  state.rows, worker);
  } else if (worker < kTileRows + kTileColumns) {
    const int line = worker - kTileRows;
    describe_line(problem, problem.target_valid, !tile.own_rows, false, tile.column + line,
                  state.columns, line);
  }
}

template <class Block, class Products>
UMER1_HOST_DEVICE void similarities(const Block& block, const Products& products,
                                    const Problem& problem, const Tile& tile, BlockState& state,
                                    float* similarity) {
  block.each([&](int worker) { describe(problem, tile, state, worker); });
  products(state);
  block.each([&](int worker) {
    if (worker >= kTilePairs) return;
    float sum = 0.0f;
    for (int slice = 0; slice < kSlices; ++slice) sum += state.slices[slice][worker];
    similarity[worker] = sum;
  });
}

// Similarities of a tile that belong to one pair, for everybody.
UMER1_HOST_DEVICE inline void publish(const Problem& problem, const Work& work,
                                      const BlockState& state, const float* similarity,
                                      int worker) {
  if (worker >= kTilePairs) return;
  const int row = worker / kTileColumns, column = worker % kTileColumns;
  const int own = state.rows.own[row], pair = state.rows.pair[row];
  if (own < 0 || pair != state.columns.pair[column]) return;
  const int partner = state.columns.candidate[column] % problem.size;
  work.positives[static_cast<int64_t>(own) * problem.size + partner] = similarity[worker];
}

// Adds one row of a tile to the sums that the threshold comes from.
UMER1_HOST_DEVICE inline void add_totals(BlockState& state, const float* similarity, int worker) {
  if (worker >= kTileRows || state.rows.pair[worker] < 0) return;
  Totals& totals = state.totals[worker];
  for (int column = 0; column < kTileColumns; ++column) {
    const int pair = state.columns.pair[column];
    if (pair < 0) continue;
    const bool positive = pair == state.rows.pair[worker];
    (positive ? totals.positive_sum : totals.negative_sum) +=
        static_cast<double>(similarity[worker * kTileColumns + column]);
    (positive ? totals.positives : totals.negatives) += 1;
  }
}

// For each own row of the tile and each of its positives the negatives that are at least as near,
// and the same for each own column.
UMER1_HOST_DEVICE inline void count_ahead(const Problem& problem, const Work& work,
                                          const BlockState& state, const float* similarity,
                                          int worker) {
  const int size = problem.size;
  for (int item = worker; item < (kTileRows + kTileColumns) * size; item += kWorkers) {
    const int line = item / size, partner = item % size;
    const bool is_row = line < kTileRows;
    const int column = line - kTileRows;
    const int own = is_row ? state.rows.own[line] : state.columns.own[column];
    if (own < 0) continue;
    const int64_t positive =
        is_row ? static_cast<int64_t>(own) * size + partner
               : (static_cast<int64_t>(own / size) * size + partner) * size + own % size;
    const float value = work.positives[positive];
    int ahead = 0;
    if (is_row) {
      const float* values = similarity + line * kTileColumns;
      for (int c = 0; c < kTileColumns; ++c) {
        const int pair = state.columns.pair[c];
        ahead += pair >= 0 && pair != state.rows.pair[line] && values[c] >= value;
      }
    } else {
      for (int r = 0; r < kTileRows; ++r) {
        const int pair = state.rows.pair[r];
        ahead += pair >= 0 && pair != state.columns.pair[column] &&
                 similarity[r * kTileColumns + column] >= value;
      }
    }
    const int64_t side = is_row ? 0 : problem.count;
    if (ahead > 0) add_to_counter(work.ahead + (side + own) * size + partner, ahead);
  }
}

UMER1_HOST_DEVICE inline void add(Part& part, float value, float threshold) {
  part.sum += value;
  part.count += 1;
  part.reached += value >= threshold;
}

// Adds the negatives of the tile to the sums of its own rows and columns; `row` and `column` are
// the tile's place in the task. The last workers do it: count_ahead keeps the first ones busy.
UMER1_HOST_DEVICE inline void add_parts(BlockState& state, const float* similarity, int row,
                                        int column, int worker) {
  const int line = kWorkers - 1 - worker;
  if (line < kTileRows) {
    if (state.rows.own[line] < 0) return;
    Part part = state.row_part[row + line];
    for (int c = 0; c < kTileColumns; ++c) {
      const int pair = state.columns.pair[c];
      if (pair < 0 || pair == state.rows.pair[line]) continue;
      add(part, similarity[line * kTileColumns + c], state.threshold);
    }
    state.row_part[row + line] = part;
  } else if (line < kTileRows + kTileColumns) {
    const int c = line - kTileRows;
    if (state.columns.own[c] < 0) return;
    Part part = state.column_part[column + c];
    for (int r = 0; r < kTileRows; ++r) {
      const int pair = state.rows.pair[r];
      if (pair < 0 || pair == state.columns.pair[c]) continue;
      add(part, similarity[r * kTileColumns + c], state.threshold);
    }
    state.column_part[column + c] = part;
  }
}

// The parts of a task's own rows and columns, for phase 3.
UMER1_HOST_DEVICE inline void write_parts(const Problem& problem, const Schedule& schedule,
                                          const Work& work, const Task& task,
                                          const BlockState& state, int worker) {
  const int rows = schedule.rows * kTileRows, columns = schedule.columns * kTileColumns;
  const int line = worker % kTaskSide;
  if (worker < kTaskSide) {
    const int own = task.down * rows + line;
    if (!task.own_rows || line >= rows || own >= problem.count) return;
    work.query_parts[static_cast<int64_t>(own) * schedule.query_parts() + task.across] =
        state.row_part[line];
    return;
  }
  const int position = task.across * columns + line;
  const int own = task.own_rows ? position - problem.first : position;
  if (line >= columns || own < 0 || own >= problem.count) return;
  const int part = task.own_rows ? task.down : schedule.own_down + task.down;
  work.target_parts[static_cast<int64_t>(own) * schedule.target_parts() + part] =
      state.column_part[line];
}

}  // namespace umer1::reward
