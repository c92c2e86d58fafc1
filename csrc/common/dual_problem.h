// What the small dual InfoNCE kernel is asked to compute, and how rows, pairs and sides are numbered.
//
// Legend: N queries and M targets; two sides at most, 0 generative and 1 discriminative, each with
// its dimension D. A pair is the queries of one side with the targets of one side: pair 0 and 1 are
// a side with itself, 2 the generative queries with the discriminative targets, 3 the other way
// round. x_ij are the unscaled logits of a pair, z = scale * x.

#pragma once

#include <cstdint>

#include "common/dual_terms.h"
#include "common/host_device.h"

namespace umer1::dual {

constexpr int kSides = 2, kPairs = 4;
constexpr int kIgnored = -100;  // a label that leaves its row out
// What comes out as a loss: all together, each side, the crossed pairs' mean.
constexpr int kLosses = 4;
enum LossIndex { kTotal, kGen, kDisc, kAlign };
constexpr int kMetrics = 3;  // of a side: hit@1, cosine of the own pairs, of all others

enum class Reduction : int { kMean, kSum, kNone };

// Rows of bfloat16 numbers that begin at 16-byte boundaries; `stride` is in numbers.
struct Rows {
  const uint16_t* data;
  int64_t stride;
};

struct Problem {
  int queries, targets;  // N, M
  int sides;
  bool crossed;  // pairs 2 and 3 as well
  int dimension[kSides];
  Rows query[kSides], target[kSides];

  const float* scale;  // on the device, or null: `fixed_scale`
  float fixed_scale;
  const int64_t* label;  // [N]: which target is the row's own, before the offset; null: i
  int64_t label_offset;
  const int64_t* query_id;  // [N] and [M], or null
  const int64_t* target_id;
  const float* weight;    // [N], or null: 1
  int64_t weight_stride;  // from the weights of one term (gen, disc, crossed) to the next, or 0
  Softmaxes softmaxes;
  Reduction reduction;
  float align;  // weight of the crossed pairs' mean in the whole loss

  float* workspace;
  float* loss[kLosses];   // one number each, or N
  float* slope;           // [kLosses]: the losses' derivatives by the scale
  float* metrics;         // [sides, kMetrics]
  uint16_t* logit_grad;   // d loss / d x of each pair, [pairs, N, M] padded to whole tiles; or null

  // The gradients: of loss, gen, disc and align times these numbers (null: 0; all null: of loss).
  const float* upstream[kLosses];
  uint16_t* query_grad[kSides];  // [N, D], [M, D]; null: not needed
  uint16_t* target_grad[kSides];
  float* scale_grad;  // or null

  UMER1_HOST_DEVICE int pairs() const { return crossed ? kPairs : sides; }
  UMER1_HOST_DEVICE float scale_value() const { return scale != nullptr ? *scale : fixed_scale; }
  // Row i's own target; -1 if it is out of range, which makes the row's loss NaN.
  UMER1_HOST_DEVICE int own_target(int row) const {
    const int64_t own = (label != nullptr ? label[row] : row) + label_offset;
    return own >= 0 && own < targets ? static_cast<int>(own) : -1;
  }
  UMER1_HOST_DEVICE bool ignored(int row) const {
    return label != nullptr && label[row] == kIgnored;
  }
  // Before the reduction.
  UMER1_HOST_DEVICE float weight_of(int pair, int row) const {
    if (ignored(row)) return 0.0f;
    return weight != nullptr ? weight[least(pair, kSides) * weight_stride + row] : 1.0f;
  }
};

UMER1_HOST_DEVICE inline int query_side(int pair) { return pair % kSides; }
UMER1_HOST_DEVICE inline int target_side(int pair) { return pair < kSides ? pair : kPairs - 1 - pair; }

// The pairs that a side's queries (targets) are in: its own, and a crossed one.
UMER1_HOST_DEVICE inline int pair_of(int side, bool of_target, int segment) {
  if (segment == 0) return side;
  return of_target ? kPairs - 1 - side : kSides + side;
}

// d (what the upstream numbers say) / d (the loss of a pair).
UMER1_HOST_DEVICE inline float factor_of(const Problem& problem, int pair) {
  const auto number = [&](int k) {
    return problem.upstream[k] != nullptr ? *problem.upstream[k] : 0.0f;
  };
  bool any = false;
  for (int k = 0; k < kLosses; ++k) any = any || problem.upstream[k] != nullptr;
  const float whole = any ? number(kTotal) : 1.0f;
  if (pair < kSides) return whole + number(kGen + pair);
  return (whole * problem.align + number(kAlign)) * 0.5f;
}

// One line of four numbers from those of the pairs: the losses, or their derivatives.
UMER1_HOST_DEVICE inline void combine_losses(const Problem& problem, const float (&of_pair)[kPairs],
                                             float (&result)[kLosses]) {
  result[kGen] = of_pair[0];
  result[kDisc] = problem.sides == kSides ? of_pair[1] : 0.0f;
  result[kAlign] = problem.crossed ? (of_pair[2] + of_pair[3]) * 0.5f : 0.0f;
  result[kTotal] = result[kGen] + result[kDisc] + problem.align * result[kAlign];
}

}  // namespace umer1::dual
