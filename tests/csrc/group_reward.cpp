// The group_reward kernel on the CPU: the functions of csrc/common, block by block and phase by
// phase, in a shuffled order; scratch memory holds garbage before. Called through ctypes.

#include <cmath>
#include <cstring>
#include <memory>
#include <vector>

#include "common/group_reward_phases.h"
#include "host_block.h"

namespace umer1 {
namespace {

using emulation::HostBlock, emulation::shuffled;
using namespace reward;

// As WarpProducts in csrc/cuda/group_reward.cu: warps of 32 lanes, each with 8 x 8 sums.
struct HostProducts {
  static constexpr int kSide = 8, kSums = kSide * kSide;
  const float* query;
  const float* target;
  int dim;

  void operator()(BlockState& state) const {
    for (int warp = 0; warp < 2 * kSlices; ++warp) multiply(state, warp % 2, warp / 2);
  }

  void multiply(BlockState& state, int half, int slice) const {
    static float sum[kLanes][kSums];
    for (int lane = 0; lane < kLanes; ++lane) {
      for (int pair = 0; pair < kSums; ++pair) {
        const int row = std::max(state.rows.candidate[half * kSide + pair / kSide], 0);
        const int column = std::max(state.columns.candidate[pair % kSide], 0);
        const float* left = query + static_cast<int64_t>(row) * dim;
        const float* right = target + static_cast<int64_t>(column) * dim;
        float value = 0.0f;
        for (int k = first_depth(slice, lane); k < dim; k += kDepthStep) {
          for (int v = k; v < std::min(k + kVector, dim); ++v) {
            value = std::fma(left[v], right[v], value);
          }
        }
        sum[lane][pair] = value;
      }
    }
    for (int mask = kLanes / 2, width = kSums / 2; mask > 0; mask /= 2, width /= 2) {
      static float next[kLanes][kSums];
      for (int lane = 0; lane < kLanes; ++lane) {
        const bool upper = (lane & mask) != 0;
        for (int i = 0; i < width; ++i) {
          const float* other = sum[lane ^ mask];
          next[lane][i] = sum[lane][upper ? i + width : i] + other[upper ? i + width : i];
        }
      }
      std::memcpy(sum, next, sizeof(sum));
    }
    for (int lane = 0; lane < kLanes; ++lane) {
      for (int i = 0; i < 2; ++i) state.slices[slice][half * kSums + 2 * lane + i] = sum[lane][i];
    }
  }
};

}  // namespace
}  // namespace umer1

// Vectors [candidates, dim]; output [4, 2, count]: reward, advantage, rank, gap. Returns whether
// the blocks kept their similarities.
extern "C" int group_reward(const float* query, const float* target, const bool* query_valid,
                            const bool* target_valid, const float* threshold, int kind,
                            int candidates, int size, int dim, int first, int count, int blocks,
                            unsigned seed, float* output) {
  using namespace umer1;
  const Problem problem = {candidates, size,        dim,          first,    count,
                           static_cast<Kind>(kind), query_valid, target_valid, threshold};
  const Schedule schedule = schedule_of(problem);
  Work work = {};
  std::vector<char> scratch(lay_out(problem, schedule, nullptr, work) + 16, 0x7f);
  char* base = scratch.data() + (16 - reinterpret_cast<uintptr_t>(scratch.data()) % 16);
  lay_out(problem, schedule, base, work);
  const Result result = {output, output + 2 * count, output + 4 * count, output + 6 * count};
  const HostProducts products = {query, target, dim};

  std::mt19937 random(seed);
  std::vector<std::unique_ptr<BlockState>> states;
  std::vector<HostBlock> block;
  for (int b = 0; b < blocks; ++b) {
    states.push_back(std::make_unique<BlockState>());
    std::memset(static_cast<void*>(states.back().get()), 0x7f, sizeof(BlockState));
    block.emplace_back(b, blocks, kWorkers, seed + b);
  }
  for (int b : shuffled(blocks, random)) {
    first_phase(block[b], products, problem, schedule, work, *states[b]);
  }
  for (int b : shuffled(blocks, random)) {
    second_phase(block[b], products, problem, schedule, work, *states[b]);
  }
  for (int b : shuffled(blocks, random)) {
    third_phase(block[b], problem, schedule, work, result, *states[b]);
  }
  return schedule.keeps(blocks);
}

// tiles down and across a task, tasks, parts of a query, parts of a target
extern "C" void group_reward_schedule(int candidates, int size, int count, int* found) {
  using namespace umer1;
  const Schedule plan = schedule_of({candidates, size, 1, 0, count});
  const int values[] = {plan.rows, plan.columns, plan.tasks(), plan.query_parts(),
                        plan.target_parts()};
  std::copy(std::begin(values), std::end(values), found);
}
