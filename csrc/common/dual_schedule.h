// How the small dual InfoNCE kernel is cut into tiles, where partial results lie, and what fits.
//
// Three phases with a barrier of the whole grid between them. Every block keeps the logits of its
// tiles on chip from phase 1 to phase 2.
//
//   1  logits of each tile; for each of its rows and columns the pool over the tile
//   2  pools put together in the order of the tiles, losses, gradient of the logits; the last block
//      adds up the losses once the second barrier is passed
//   3  gradient products, tile by tile
//
// Phase 3 may run in a launch of its own, once the upstream gradients are known.

#pragma once

#include <cstdint>

#include "common/dual_problem.h"
#include "common/softmax_pool.h"

namespace umer1::dual {

constexpr int kThreads = 256;
constexpr int kSide = 128;       // of a tile of logits
constexpr int kDepth = 64;       // of an operand's tile: 128 bytes of each of its lines
constexpr int kLineBytes = 128;
constexpr int kMostTiles = 11, kMostLines = kMostTiles * kSide;  // of N and of M
constexpr int kTileBytes = kSide * kSide * 4;

// A product's tile: what one block makes at a time.
template <int kRows_, int kColumns_>
struct TileShape {
  static constexpr int kRows = kRows_, kColumns = kColumns_;
  static constexpr int kSums = kRows * kColumns / kThreads;  // per thread
  static constexpr int kLeftBytes = kRows * kLineBytes, kRightBytes = kColumns * kLineBytes;
  static constexpr int kBytes = kLeftBytes + kRightBytes;  // of kDepth of both operands
};
using LogitShape = TileShape<kSide, kSide>;
using SmallShape = TileShape<128, 128>;  // of the gradients
using LargeShape = TileShape<256, 192>;
constexpr int kMostSums = LargeShape::kSums;

// Operand tiles that are loaded while another is multiplied.
struct Ring {
  int begin, slots;  // byte offset in shared memory

  // With the multiplication still running while the next one is started (warpgroups), a slot is
  // free one step later.
  UMER1_HOST_DEVICE int ahead(bool warpgroups) const { return slots - (warpgroups ? 2 : 1); }
};
constexpr int kFewestSlots = 3, kMostLogitSlots = 5, kMostGradientSlots = 6;
constexpr int kWorkBytes = 64;  // behind the gradients' operands, for each of two tiles

// Of one launch.
struct Launch {
  int blocks, tiles_per_block;
  int shared_bytes;
  Ring logits, gradients;
  bool large;  // the shape of the gradients' tiles
  bool makes_loss, makes_gradients;
};

UMER1_HOST_DEVICE inline int row_tiles(const Problem& problem) {
  return divide_up(problem.queries, kSide);
}
UMER1_HOST_DEVICE inline int column_tiles(const Problem& problem) {
  return divide_up(problem.targets, kSide);
}
UMER1_HOST_DEVICE inline int padded_queries(const Problem& problem) {
  return row_tiles(problem) * kSide;
}
UMER1_HOST_DEVICE inline int padded_targets(const Problem& problem) {
  return column_tiles(problem) * kSide;
}
UMER1_HOST_DEVICE inline int tiles_of_pair(const Problem& problem) {
  return row_tiles(problem) * column_tiles(problem);
}
UMER1_HOST_DEVICE inline int logit_tiles(const Problem& problem) {
  return problem.pairs() * tiles_of_pair(problem);
}

struct LogitTile {
  int number, pair, row_tile, column_tile;
  int row, column;          // the first ones
  int rows, columns;        // how many exist
};

UMER1_HOST_DEVICE inline LogitTile logit_tile(const Problem& problem, int number) {
  LogitTile tile;
  const int of_pair = number % tiles_of_pair(problem);
  tile.number = number;
  tile.pair = number / tiles_of_pair(problem);
  tile.row_tile = of_pair / column_tiles(problem);
  tile.column_tile = of_pair % column_tiles(problem);
  tile.row = tile.row_tile * kSide;
  tile.column = tile.column_tile * kSide;
  tile.rows = least(kSide, problem.queries - tile.row);
  tile.columns = least(kSide, problem.targets - tile.column);
  return tile;
}

// The part of a gradient that one block makes at a time.
struct GradientTile {
  int side;
  bool of_target;
  int row, column;  // the first ones
};

template <class Shape>
UMER1_HOST_DEVICE inline int tiles_down(const Problem& problem, bool of_target) {
  return divide_up(of_target ? problem.targets : problem.queries, Shape::kRows);
}

template <class Shape>
UMER1_HOST_DEVICE inline int tiles_of_gradient(const Problem& problem, int side, bool of_target) {
  const void* wanted = of_target ? problem.target_grad[side] : problem.query_grad[side];
  if (side >= problem.sides || wanted == nullptr) return 0;
  return tiles_down<Shape>(problem, of_target) *
         divide_up(problem.dimension[side], Shape::kColumns);
}

// In the order they are begun: the gradients with the deeper products first.
UMER1_HOST_DEVICE inline bool is_of_target(const Problem& problem, int output) {
  return (output >= kSides) == (problem.targets >= problem.queries);
}

template <class Shape>
UMER1_HOST_DEVICE inline int gradient_tiles(const Problem& problem) {
  int count = 0;
  for (int output = 0; output < 2 * kSides; ++output) {
    count += tiles_of_gradient<Shape>(problem, output % kSides, is_of_target(problem, output));
  }
  return count;
}

template <class Shape>
UMER1_HOST_DEVICE inline GradientTile gradient_tile(const Problem& problem, int number) {
  for (int output = 0; output < 2 * kSides; ++output) {
    const int side = output % kSides;
    const bool of_target = is_of_target(problem, output);
    const int count = tiles_of_gradient<Shape>(problem, side, of_target);
    if (number < count) {
      const int down = tiles_down<Shape>(problem, of_target);
      return {side, of_target, number % down * Shape::kRows, number / down * Shape::kColumns};
    }
    number -= count;
  }
  return {0, false, 0, 0};
}

// What each tile of logits adds to the sums; those of its rows come from the first column of tiles.
// Cosines are those of rows that count: with their own target, and with all others.
enum TileSum { kLossSum, kHitSum, kOwnCosineSum, kCountSum, kSlopeSum, kCosineSum, kTileSums };

// In memory, written in one phase and read in a later one.
struct Workspace {
  Pool<float>* row_pool;     // [pairs, column tiles, padded N]
  Pool<float>* column_pool;  // [pairs, row tiles, padded M]
  float* own;                // [pairs, padded N]: x of the own pair, times the scale's sign
  float* query_norm;         // [sides, padded N]: 1 / |query|
  float* target_norm;        // [sides, padded M]
  float* row_loss;           // [pairs, padded N], weighted
  float* tile_sum;           // [tiles, kTileSums]
};

// Written by another block in an earlier phase: not from a cache that may not know it.
template <typename T>
UMER1_HOST_DEVICE inline T read_fresh(const T* from) {
#ifdef __CUDA_ARCH__
  if constexpr (sizeof(T) == 8) {
    const float2 value = __ldcg(reinterpret_cast<const float2*>(from));
    return {value.x, value.y};
  } else {
    return __ldcg(from);
  }
#else
  return *from;
#endif
}

// Lays the workspace out from `begin` on; returns how many floats it takes.
UMER1_HOST_DEVICE inline int64_t lay_out(const Problem& problem, float* begin,
                                         Workspace& workspace) {
  const int64_t rows = padded_queries(problem), columns = padded_targets(problem);
  float* at = begin;
  const auto take = [&](int64_t count) {
    float* result = at;
    at += count;
    return result;
  };
  workspace.row_pool =
      reinterpret_cast<Pool<float>*>(take(2 * problem.pairs() * column_tiles(problem) * rows));
  workspace.column_pool =
      reinterpret_cast<Pool<float>*>(take(2 * problem.pairs() * row_tiles(problem) * columns));
  workspace.own = take(problem.pairs() * rows);
  workspace.query_norm = take(problem.sides * rows);
  workspace.target_norm = take(problem.sides * columns);
  workspace.row_loss = take(problem.pairs() * rows);
  workspace.tile_sum = take(static_cast<int64_t>(logit_tiles(problem)) * kTileSums);
  return at - begin;
}

// Numbers in the gradient of all pairs' logits.
inline int64_t logit_grad_size(const Problem& problem) {
  return static_cast<int64_t>(problem.pairs()) * padded_queries(problem) * padded_targets(problem);
}

// Whether `tiles` tiles of logits stay on the chip, and how the kernel is launched. `blocks` is 0 if
// they do not. One block per multiprocessor; a launch without phases 1 and 2 keeps no logits.
inline Launch plan_launch(const Problem& problem, int multiprocessors, int shared_bytes,
                          bool makes_loss, bool makes_gradients) {
  Launch launch = {};
  launch.makes_loss = makes_loss;
  launch.makes_gradients = makes_gradients;
  const int tiles = makes_loss ? logit_tiles(problem) : 0;
  launch.tiles_per_block = divide_up(tiles, multiprocessors);
  const int kept = launch.tiles_per_block * kTileBytes;
  const int room = shared_bytes - kept;
  if (room < kFewestSlots * LogitShape::kBytes) return launch;
  launch.logits = {kept, least(kMostLogitSlots, room / LogitShape::kBytes)};
  int work = tiles;
  if (makes_gradients) {
    const int small = gradient_tiles<SmallShape>(problem);
    const int large = gradient_tiles<LargeShape>(problem);
    // a round of tiles takes as long as its bytes take to arrive
    const int operands = shared_bytes - 2 * kWorkBytes;
    launch.large = operands >= kFewestSlots * LargeShape::kBytes &&
                   divide_up(large, multiprocessors) * LargeShape::kBytes <
                       divide_up(small, multiprocessors) * SmallShape::kBytes;
    const int bytes = launch.large ? LargeShape::kBytes : SmallShape::kBytes;
    launch.gradients = {0, least(kMostGradientSlots, operands / bytes)};
    work = most(work, launch.large ? large : small);
  }
  launch.blocks = most(1, least(multiprocessors, work));
  launch.tiles_per_block = divide_up(tiles, launch.blocks);
  launch.shared_bytes = kept;
  if (makes_loss) launch.shared_bytes += launch.logits.slots * LogitShape::kBytes;
  if (makes_gradients) {
    const int bytes = launch.large ? LargeShape::kBytes : SmallShape::kBytes;
    launch.shared_bytes =
        most(launch.shared_bytes, launch.gradients.slots * bytes + 2 * kWorkBytes);
  }
  return launch;
}

}  // namespace umer1::dual
