// Phase 3 of the small dual InfoNCE kernel, for one block: the vectors' gradients from those of the
// logits, d query = d x . target and d target = (d x)^T . query.
//
// With crossed pairs every tile has two segments, one pair each. The first operands of the next tile
// are on their way while the sums of the last one are stored.

#pragma once

#include "common/dual_logits.h"
#include "common/dual_schedule.h"
#include "common/operand_tile.h"

namespace umer1::dual {

// One tile and how it is made, in shared memory behind the operands: registers are for sums.
//
// The segment with the larger factor comes last: what is there by then is multiplied by their ratio,
// the whole by the larger one.
struct GradientWork {
  int number;
  bool exists;
  GradientTile tile;
  int first;  // which segment of pair_of comes first
  float ratio, factor;
  int steps, all_steps;  // of a segment, of the tile
};
static_assert(sizeof(GradientWork) <= kWorkBytes);

template <class Shape>
UMER1_HOST_DEVICE inline GradientWork gradient_work(const Problem& problem, int number) {
  GradientWork work = {number, number < gradient_tiles<Shape>(problem)};
  if (!work.exists) return work;
  work.tile = gradient_tile<Shape>(problem, number);
  const GradientTile& tile = work.tile;
  work.steps = divide_up(tile.of_target ? problem.queries : problem.targets, kDepth);
  work.all_steps = problem.crossed ? 2 * work.steps : work.steps;
  work.ratio = 1.0f;
  work.factor = factor_of(problem, pair_of(tile.side, tile.of_target, 0));
  if (!problem.crossed) return work;
  const float other = factor_of(problem, pair_of(tile.side, tile.of_target, 1));
  const bool swap = fabsf(work.factor) > fabsf(other);
  const float low = swap ? other : work.factor, high = swap ? work.factor : other;
  work.first = swap ? 1 : 0;
  work.ratio = high == 0.0f ? 0.0f : low / high;
  work.factor = high;
  return work;
}

// Operand tiles of one step; the steps of the second segment follow those of the first.
template <class Shape, class Block>
UMER1_HOST_DEVICE void load_gradient_step(Block& block, const Problem& problem,
                                          const GradientWork& work, int step, int offset) {
  const GradientTile& tile = work.tile;
  const bool is_second = step >= work.steps;
  const int segment = is_second ? 1 - work.first : work.first;
  const int pair = pair_of(tile.side, tile.of_target, segment);
  const int rows = padded_queries(problem), columns = padded_targets(problem);
  const int64_t size = static_cast<int64_t>(rows) * columns;
  const Operand left = {problem.logit_grad + pair * size, columns, rows, columns};
  const int of_other = tile.of_target ? query_side(pair) : target_side(pair);
  const Rows& other = tile.of_target ? problem.query[of_other] : problem.target[of_other];
  const Operand right = {other.data, other.stride,
                         tile.of_target ? problem.queries : problem.targets,
                         problem.dimension[tile.side]};
  const int depth = (is_second ? step - work.steps : step) * kDepth;
  block.spread([&](int thread) {
    if (tile.of_target) {
      load_operand<Major::kLine, Shape::kRows>(block, left, tile.row, depth, offset, thread);
    } else {
      load_operand<Major::kDepth, Shape::kRows>(block, left, tile.row, depth, offset, thread);
    }
    load_operand<Major::kLine, Shape::kColumns>(block, right, tile.column, depth,
                                                offset + Shape::kLeftBytes, thread);
  });
}

// The tile's sums times `factor`, rounded once. Four neighbouring threads first exchange what they
// hold of 32 columns, so that each stores eight side by side.
template <class Shape, class Block>
UMER1_HOST_DEVICE void store_gradient(Block& block, const Problem& problem,
                                      const GradientTile& tile, float factor) {
  uint16_t* out =
      tile.of_target ? problem.target_grad[tile.side] : problem.query_grad[tile.side];
  const int rows = tile.of_target ? problem.targets : problem.queries;
  const int columns = problem.dimension[tile.side];
  UMER1_UNROLL
  for (int group = 0; group < Shape::kSums / 16; ++group) {
    UMER1_UNROLL
    for (int half = 0; half < 2; ++half) {
      block.spread([&](int thread) {
        Registers& registers = block.registers(thread);
        UMER1_UNROLL
        for (int k = 0; k < 4; ++k) {
          registers.words[k] =
              pack_bfloat16(registers.sums[sum_index(group, half, k, 0)] * factor,
                            registers.sums[sum_index(group, half, k, 1)] * factor);
        }
      });
      block.exchange_words();
      block.spread([&](int thread) {
        const Registers& registers = block.registers(thread);
        const Place place = place_of<Shape, Block::kWarpgroups>(thread, group, half);
        const int row = tile.row + place.row;
        const int column = tile.column + place.column + thread % 4 * kPiece;
        if (row >= rows || column >= columns) return;
        *reinterpret_cast<FourWords*>(out + static_cast<int64_t>(row) * columns + column) = {
            registers.words[0], registers.words[1], registers.words[2], registers.words[3]};
      });
    }
  }
}

template <class Block>
UMER1_HOST_DEVICE void write_scale_grad(Block& block, const Problem& problem) {
  if (problem.scale_grad == nullptr || block.id() != 0) return;
  block.spread([&](int thread) {
    if (thread != 0) return;
    bool any = false;
    float sum = 0.0f;
    for (int k = 0; k < kLosses; ++k) {
      if (problem.upstream[k] == nullptr) continue;
      any = true;
      sum += *problem.upstream[k] * read_fresh(problem.slope + k);
    }
    *problem.scale_grad = any ? sum : read_fresh(problem.slope + kTotal);
  });
}

template <class Shape, class Block>
UMER1_HOST_DEVICE void scale_sums(Block& block, float factor) {
  block.spread([&](int thread) {
    Registers& registers = block.registers(thread);
    UMER1_UNROLL
    for (int k = 0; k < Shape::kSums; ++k) registers.sums[k] *= factor;
  });
}

template <class Shape, class Block>
UMER1_HOST_DEVICE void clear_sums(Block& block) {
  block.spread([&](int thread) {
    Registers& registers = block.registers(thread);
    UMER1_UNROLL
    for (int k = 0; k < Shape::kSums; ++k) registers.sums[k] = 0.0f;
  });
}

// The sums of one tile, whose first steps are under way.
template <class Shape, Major kLeft, class Block>
UMER1_HOST_DEVICE void multiply_gradient(Block& block, const Problem& problem,
                                         const GradientWork& work, const Ring& ring) {
  const int ahead = ring.ahead(Block::kWarpgroups);
  int slot = 0, load_slot = ahead;
  clear_sums<Shape>(block);
  for (int step = 0; step < work.all_steps; ++step) {
    const int offset = ring.begin + slot * Shape::kBytes;
    block.landed(ahead - 1);
    block.wait();
    block.template multiply<Shape, kLeft, Major::kLine>(offset, offset + Shape::kLeftBytes);
    if (step + ahead < work.all_steps) {
      load_gradient_step<Shape>(block, problem, work, step + ahead,
                                ring.begin + load_slot * Shape::kBytes);
    }
    block.commit();
    if (step + 1 == work.steps && problem.crossed) {
      block.template finish<Shape>();
      scale_sums<Shape>(block, work.ratio);
    } else {
      block.finish_previous();
    }
    slot = slot + 1 == ring.slots ? 0 : slot + 1;
    load_slot = load_slot + 1 == ring.slots ? 0 : load_slot + 1;
  }
  block.template finish<Shape>();
}

// Describes a tile and starts on it.
template <class Shape, class Block>
UMER1_HOST_DEVICE void begin_gradient(Block& block, const Problem& problem, int number,
                                      const Ring& ring, GradientWork& work) {
  block.each([&](int thread) {
    if (thread == 0) work = gradient_work<Shape>(problem, number);
  });
  for (int step = 0; step < ring.ahead(Block::kWarpgroups); ++step) {
    if (step < work.all_steps) {
      load_gradient_step<Shape>(block, problem, work, step, ring.begin + step * Shape::kBytes);
    }
    block.commit();
  }
}

template <class Shape, class Block>
UMER1_HOST_DEVICE void third_phase(Block& block, const Problem& problem, const Ring& ring) {
  // of this tile and, while it is stored, the next one
  auto* works = reinterpret_cast<GradientWork*>(block.shared() + ring.begin +
                                                ring.slots * Shape::kBytes);
  begin_gradient<Shape>(block, problem, block.id(), ring, works[0]);
  for (int turn = 0; works[turn].exists; turn = 1 - turn) {
    const GradientWork& work = works[turn];
    if (work.tile.of_target) {
      multiply_gradient<Shape, Major::kLine>(block, problem, work, ring);
    } else {
      multiply_gradient<Shape, Major::kDepth>(block, problem, work, ring);
    }
    begin_gradient<Shape>(block, problem, work.number + block.all(), ring, works[1 - turn]);
    store_gradient<Shape>(block, problem, work.tile, work.factor);
  }
  write_scale_grad(block, problem);
}

}  // namespace umer1::dual
