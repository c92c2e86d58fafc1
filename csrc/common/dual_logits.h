// Phase 1 of the small dual InfoNCE kernel, for one block: the logits of its tiles, which stay on the
// chip, the pools of each tile's rows and columns, and the norms of the vectors.
//
// `Block` is a CUDA block or its model on a CPU (tests/csrc): it runs a function for every thread
// (`each` then waits for all of them, `spread` does not), copies to its shared memory while it goes
// on, and multiplies operand tiles into the threads' sums.

#pragma once

#include "common/bfloat16.h"
#include "common/dual_pools.h"
#include "common/dual_schedule.h"
#include "common/operand_tile.h"

namespace umer1::dual {

// Per thread, across steps.
struct Registers {
  float sums[kMostSums];
  float squares[kPieces];  // of 256 vectors at most: one piece of each 32 of them
  uint32_t words[4];
};

// In shared memory while no operand tile is.
struct LogitScratch {
  TileMasks masks;
  Pool<float> half[2][2][kSide];  // of rows and of columns, over half a line each
  float squares[kThreads * kPieces];
};

// The vectors whose norm this tile finds while their numbers pass through shared memory: the tiles
// of a row share its 128 queries, those of a column its 128 targets.
struct NormShare {
  int first_row, rows, first_column, columns;  // within the tile

  UMER1_HOST_DEVICE NormShare(const Problem& problem, const LogitTile& tile) {
    const int by_row = divide_up(kSide, column_tiles(problem));
    const int by_column = divide_up(kSide, row_tiles(problem));
    const bool wanted = tile.pair < problem.sides;
    first_row = tile.column_tile * by_row;
    first_column = tile.row_tile * by_column;
    rows = wanted ? most(0, least(by_row, kSide - first_row)) : 0;
    columns = wanted ? most(0, least(by_column, kSide - first_column)) : 0;
  }
  UMER1_HOST_DEVICE int pieces() const { return (rows + columns) * kPieces; }
  // Byte offset of piece `number` in a slot.
  UMER1_HOST_DEVICE int offset(int number) const {
    const int vector = number / kPieces, piece = number % kPieces;
    return vector < rows
               ? piece_offset(first_row + vector, piece)
               : LogitShape::kLeftBytes + piece_offset(first_column + vector - rows, piece);
  }
};

// A piece of a vector, read in one instruction.
struct alignas(16) FourWords {
  uint32_t word[4];
};

UMER1_HOST_DEVICE inline float sum_of_squares(const FourWords& piece) {
  float sum = 0.0f;
  UMER1_UNROLL
  for (int k = 0; k < 4; ++k) {
    const float low = widen_bfloat16(static_cast<uint16_t>(piece.word[k]));
    const float high = widen_bfloat16(static_cast<uint16_t>(piece.word[k] >> 16));
    sum += low * low;
    sum += high * high;
  }
  return sum;
}

// The operand's tile of `kLines` lines, on its way to `offset`. Each thread has one piece of every 32
// rows of the tile.
template <Major kMajor, int kLines, class Block>
UMER1_HOST_DEVICE inline void load_operand(Block& block, const Operand& operand, int first_line,
                                           int first_depth, int offset, int thread) {
  constexpr int kApart = kThreads / kPieces;
  const int to = offset + piece_offset(thread / kPieces, thread % kPieces);
  Piece piece = piece_of<kMajor>(thread, first_line, first_depth);
  const uint16_t* from = operand.data + piece.row * operand.stride + piece.column;
  UMER1_UNROLL
  for (int k = 0; k < kLines / kApart; ++k) {
    const bool exists = piece.row < operand.rows && piece.column < operand.columns;
    block.copy(to + k * kApart * kLineBytes, exists ? from : operand.data, exists);
    // from the last 32 of 64 rows on to the next 64 lines
    const bool turns = kMajor == Major::kLine && k % 2 == 1;
    piece.row += turns ? -kApart : kApart;
    piece.column += turns ? kBlockLines : 0;
    from += (turns ? -kApart : kApart) * operand.stride + (turns ? kBlockLines : 0);
  }
}

// <query, target> of the tile into the threads' sums.
template <class Block>
UMER1_HOST_DEVICE void multiply_logits(Block& block, const Problem& problem, const LogitTile& tile,
                                       const NormShare& share, const Ring& ring) {
  using Shape = LogitShape;
  const int of_query = query_side(tile.pair), of_target = target_side(tile.pair);
  const int dimension = problem.dimension[of_query];
  const Rows query = problem.query[of_query], target = problem.target[of_target];
  const Operand left = {query.data, query.stride, problem.queries, dimension};
  const Operand right = {target.data, target.stride, problem.targets, dimension};
  const int steps = divide_up(dimension, kDepth), ahead = ring.ahead(Block::kWarpgroups);
  block.spread([&](int thread) {
    Registers& registers = block.registers(thread);
    UMER1_UNROLL
    for (int k = 0; k < Shape::kSums; ++k) registers.sums[k] = 0.0f;
    UMER1_UNROLL
    for (int k = 0; k < kPieces; ++k) registers.squares[k] = 0.0f;
  });

  int load_slot = 0;
  const auto load = [&](int step) {
    const int offset = ring.begin + load_slot * Shape::kBytes;
    if (step < steps) {
      block.spread([&](int thread) {
        load_operand<Major::kDepth, Shape::kRows>(block, left, tile.row, step * kDepth, offset,
                                                  thread);
        load_operand<Major::kDepth, Shape::kColumns>(block, right, tile.column, step * kDepth,
                                                     offset + Shape::kLeftBytes, thread);
      });
    }
    block.commit();
    load_slot = load_slot + 1 == ring.slots ? 0 : load_slot + 1;
  };
  for (int step = 0; step < ahead; ++step) load(step);
  int slot = 0;
  for (int step = 0; step < steps; ++step) {
    const int offset = ring.begin + slot * Shape::kBytes;
    block.landed(ahead - 1);
    block.wait();
    block.template multiply<Shape, Major::kDepth, Major::kDepth>(offset,
                                                                 offset + Shape::kLeftBytes);
    load(step + ahead);
    block.spread([&](int thread) {
      Registers& registers = block.registers(thread);
      UMER1_UNROLL
      for (int k = 0; k < kPieces; ++k) {
        const int number = thread + k * kThreads;
        if (number >= share.pieces()) continue;
        registers.squares[k] += sum_of_squares(*reinterpret_cast<const FourWords*>(
            block.shared() + offset + share.offset(number)));
      }
    });
    block.finish_previous();
    slot = slot + 1 == ring.slots ? 0 : slot + 1;
  }
  block.template finish<Shape>();
  block.wait();
}

// Half of a row and half of a column per thread.
template <bool kIds>
UMER1_HOST_DEVICE void pool_lines(const Problem& problem, const LogitTile& tile,
                                  const float* logits, LogitScratch& scratch, int thread) {
  const int line = thread % kSide, half = thread / kSide, begin = half * (kSide / 2);
  const Exponential<float> exponential = exponential_of(problem);
  Pool<float> row = no_negatives(1.0f), column = row;
  if (problem.softmaxes.q2t && line < tile.rows) {
    const int end = least(tile.columns, begin + kSide / 2);
    row = row_pool<kIds>(logits, scratch.masks, line, begin, end, exponential);
  }
  if (problem.softmaxes.t2q && line < tile.columns) {
    const int end = least(tile.rows, begin + kSide / 2);
    column = column_pool<kIds>(logits, scratch.masks, line, begin, end, exponential);
  }
  scratch.half[0][half][line] = row;
  scratch.half[1][half][line] = column;
}

// What other blocks need of the tile.
UMER1_HOST_DEVICE inline void publish_tile(const Problem& problem, const Workspace& workspace,
                                           const LogitTile& tile, const NormShare& share,
                                           const LogitScratch& scratch, int thread) {
  const int rows = padded_queries(problem), columns = padded_targets(problem);
  const int line = thread % kSide, of_column = thread / kSide;
  const Pool<float> pool = merged(scratch.half[of_column][0][line],
                                  scratch.half[of_column][1][line], 1.0f, exponential_of(problem));
  if (of_column) {
    const int64_t list = tile.pair * row_tiles(problem) + tile.row_tile;
    workspace.column_pool[list * columns + tile.column + line] = pool;
  } else {
    const int64_t list = tile.pair * column_tiles(problem) + tile.column_tile;
    workspace.row_pool[list * rows + tile.row + line] = pool;
  }
  if (thread >= share.rows + share.columns) return;
  float sum = 0.0f;
  for (int piece = 0; piece < kPieces; ++piece) sum += scratch.squares[thread * kPieces + piece];
  const float inverse = 1.0f / fmaxf(sqrtf(sum), 1e-12f);
  if (thread < share.rows) {
    workspace.query_norm[tile.pair * rows + tile.row + share.first_row + thread] = inverse;
  } else {
    const int column = tile.column + share.first_column + thread - share.rows;
    workspace.target_norm[tile.pair * columns + column] = inverse;
  }
}

template <class Block>
UMER1_HOST_DEVICE void first_phase(Block& block, const Problem& problem,
                                   const Workspace& workspace, const Launch& launch) {
  for (int kept = 0; kept < launch.tiles_per_block; ++kept) {
    const int number = block.id() + kept * block.all();
    if (number >= logit_tiles(problem)) return;
    const LogitTile tile = logit_tile(problem, number);
    const NormShare share(problem, tile);
    multiply_logits(block, problem, tile, share, launch.logits);
    float* logits = reinterpret_cast<float*>(block.shared() + kept * kTileBytes);
    auto& scratch = *reinterpret_cast<LogitScratch*>(block.shared() + launch.logits.begin);
    const float sign = sign_of(problem.scale_value());
    block.each([&](int thread) {
      const Registers& registers = block.registers(thread);
      UMER1_UNROLL
      for (int group = 0; group < LogitShape::kSums / 16; ++group) {
        UMER1_UNROLL
        for (int item = 0; item < 8; ++item) {
          const int half = item / 4, of_four = item % 4;
          const Place place = place_of<LogitShape, Block::kWarpgroups>(thread, group, half);
          const int column = place.column + of_four * 8 + first_of_two(thread);
          *reinterpret_cast<TwoNumbers*>(logits + logit_index(place.row, column)) = {
              registers.sums[sum_index(group, half, of_four, 0)] * sign,
              registers.sums[sum_index(group, half, of_four, 1)] * sign};
        }
      }
      UMER1_UNROLL
      for (int k = 0; k < kPieces; ++k) scratch.squares[thread + k * kThreads] = registers.squares[k];
      load_masks(problem, tile, scratch.masks, thread);
    });
    const bool ids = problem.query_id != nullptr;
    block.each([&](int thread) {
      if (thread >= kSide) mask_column(logits, tile, thread - kSide);
      const int row = thread;
      if (row >= tile.rows) return;
      const float own = ids ? mask_row<true>(logits, tile, scratch.masks, row)
                            : mask_row<false>(logits, tile, scratch.masks, row);
      if (scratch.masks.own[row] < 0) return;
      workspace.own[tile.pair * padded_queries(problem) + tile.row + row] = own;
    });
    block.each([&](int thread) {
      if (ids) {
        pool_lines<true>(problem, tile, logits, scratch, thread);
      } else {
        pool_lines<false>(problem, tile, logits, scratch, thread);
      }
    });
    block.each([&](int thread) {
      publish_tile(problem, workspace, tile, share, scratch, thread);
    });
  }
}

}  // namespace umer1::dual
