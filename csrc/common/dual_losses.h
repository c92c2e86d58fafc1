// The end of the small dual InfoNCE kernel's loss: sums over tiles, by one block, in one order.

#pragma once

#include "common/dual_softmax.h"

namespace umer1::dual {

constexpr int kSumThreads = 8;  // add up one quantity of one pair

struct LossScratch {
  float parts[kPairs * kTileSums][kSumThreads];
  float sums[kPairs][kTileSums];
};

UMER1_HOST_DEVICE inline void write_metrics(const Problem& problem,
                                            const float (&sums)[kTileSums], float* metrics) {
  const float count = fmaxf(sums[kCountSum], 1.0f);
  const float others = fmaxf(count * static_cast<float>(problem.targets - 1), 1.0f);
  metrics[0] = sums[kHitSum] / count;
  metrics[1] = sums[kOwnCosineSum] / count;
  metrics[2] = sums[kCosineSum] / others;
}

UMER1_HOST_DEVICE inline void write_row_losses(const Problem& problem, const Workspace& workspace,
                                               int row) {
  float of_pair[kPairs], losses[kLosses];
  UMER1_UNROLL
  for (int pair = 0; pair < kPairs; ++pair) {
    const float* from = workspace.row_loss + pair * padded_queries(problem) + row;
    of_pair[pair] = pair < problem.pairs() ? read_fresh(from) : 0.0f;
  }
  combine_losses(problem, of_pair, losses);
  UMER1_UNROLL
  for (int k = 0; k < kLosses; ++k) problem.loss[k][row] = losses[k];
}

// One thread each: the losses, their slopes, the metrics.
UMER1_HOST_DEVICE inline void write_results(const Problem& problem, const LossScratch& scratch,
                                            int thread) {
  if (thread < 2) {
    const int quantity = thread == 0 ? kLossSum : kSlopeSum;
    float of_pair[kPairs], results[kLosses];
    UMER1_UNROLL
    for (int pair = 0; pair < kPairs; ++pair) {
      of_pair[pair] = pair < problem.pairs() ? scratch.sums[pair][quantity] : 0.0f;
    }
    combine_losses(problem, of_pair, results);
    UMER1_UNROLL
    for (int k = 0; k < kLosses; ++k) {
      if (thread == 1) problem.slope[k] = results[k];
      if (thread == 0 && problem.reduction != Reduction::kNone) *problem.loss[k] = results[k];
    }
  } else if (thread - 2 < problem.sides) {
    write_metrics(problem, scratch.sums[thread - 2], problem.metrics + (thread - 2) * kMetrics);
  }
}

template <class Block>
UMER1_HOST_DEVICE void finish_losses(Block& block, const Problem& problem,
                                     const Workspace& workspace) {
  auto& scratch = *reinterpret_cast<LossScratch*>(block.shared());
  const int quantities = problem.pairs() * kTileSums, tiles = tiles_of_pair(problem);
  block.each([&](int thread) {
    const int quantity = thread / kSumThreads, part = thread % kSumThreads;
    if (quantity >= quantities) return;
    const int pair = quantity / kTileSums;
    const float* from = workspace.tile_sum + pair * tiles * kTileSums + quantity % kTileSums;
    float sum = 0.0f;
    for (int tile = part; tile < tiles; tile += kSumThreads) {
      sum += read_fresh(from + tile * kTileSums);
    }
    scratch.parts[quantity][part] = sum;
  });
  block.each([&](int thread) {
    if (thread >= quantities) return;
    float sum = 0.0f;
    for (int part = 0; part < kSumThreads; ++part) sum += scratch.parts[thread][part];
    scratch.sums[thread / kTileSums][thread % kTileSums] = sum;
  });
  block.each([&](int thread) {
    write_results(problem, scratch, thread);
    if (problem.reduction != Reduction::kNone) return;
    for (int row = thread; row < problem.queries; row += kThreads) {
      write_row_losses(problem, workspace, row);
    }
  });
}

}  // namespace umer1::dual
