// The small dual InfoNCE kernel on the CPU: the functions of csrc/common, phase by phase and block by
// block in a shuffled order; memory holds NaN before. Called through ctypes.

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "common/dual_gradients.h"
#include "common/dual_losses.h"
#include "common/dual_softmax.h"
#include "dual_block.h"
#include "host_block.h"

namespace umer1 {
namespace {

using dual::Launch, dual::Problem, dual::Workspace;
using emulation::DualHostBlock, emulation::shuffled;

std::string message;  // of the last call that failed

struct Options {
  int multiprocessors, shared_bytes;
  bool late_products;
  unsigned seed;
};

template <bool kWarpgroups, class Shape>
void run(const Problem& problem, const Launch& launch, const Options& options) {
  using Block = DualHostBlock<kWarpgroups>;
  std::mt19937 random(options.seed);
  std::vector<std::unique_ptr<Block>> blocks;
  for (int id = 0; id < launch.blocks; ++id) {
    blocks.push_back(std::make_unique<Block>(id, launch.blocks, launch.shared_bytes,
                                             options.late_products, random()));
  }
  const auto all_blocks = [&](const auto& phase) {
    for (int id : shuffled(launch.blocks, random)) phase(*blocks[id]);
  };
  if (launch.makes_loss) {
    Workspace workspace;
    dual::lay_out(problem, problem.workspace, workspace);
    all_blocks([&](Block& block) { dual::first_phase(block, problem, workspace, launch); });
    all_blocks([&](Block& block) { dual::second_phase(block, problem, workspace, launch); });
    dual::finish_losses(*blocks.back(), problem, workspace);
  }
  if (launch.makes_gradients) {
    all_blocks([&](Block& block) { dual::third_phase<Shape>(block, problem, launch.gradients); });
  }
}

}  // namespace
}  // namespace umer1

// In the order of the fields of Call in dual_emulation.py; null pointers where something is missing.
struct Call {
  int64_t queries, targets, crossed, dimension[2];
  const uint16_t *gen_query, *gen_target, *disc_query, *disc_target;
  const float* scale;
  double fixed_scale;
  const int64_t* labels;
  int64_t label_offset;
  const int64_t *query_id, *target_id;
  const float* weight;
  int64_t weight_stride, q2t, t2q, hit_by_column, joint, reduction;
  double align;
  float *loss, *gen, *disc, *align_loss, *metrics, *slope;
  uint16_t* logit_grad;
  const float *loss_grad, *gen_grad, *disc_grad, *align_grad;
  uint16_t *gen_query_grad, *gen_target_grad, *disc_query_grad, *disc_target_grad;
  float* scale_grad;
  int64_t makes_loss, makes_gradients, warpgroups;
  int64_t multiprocessors, shared_bytes, late_products, seed;
};

namespace umer1 {
namespace {

Problem problem_of(const Call& call) {
  Problem problem = {};
  problem.queries = static_cast<int>(call.queries);
  problem.targets = static_cast<int>(call.targets);
  problem.sides = call.disc_query != nullptr ? 2 : 1;
  problem.crossed = call.crossed != 0;
  const uint16_t* queries[2] = {call.gen_query, call.disc_query};
  const uint16_t* targets[2] = {call.gen_target, call.disc_target};
  uint16_t* query_grads[2] = {call.gen_query_grad, call.disc_query_grad};
  uint16_t* target_grads[2] = {call.gen_target_grad, call.disc_target_grad};
  for (int side = 0; side < problem.sides; ++side) {
    problem.dimension[side] = static_cast<int>(call.dimension[side]);
    problem.query[side] = {queries[side], call.dimension[side]};
    problem.target[side] = {targets[side], call.dimension[side]};
    problem.query_grad[side] = query_grads[side];
    problem.target_grad[side] = target_grads[side];
  }
  problem.scale = call.scale;
  problem.fixed_scale = static_cast<float>(call.fixed_scale);
  problem.label = call.labels;
  problem.label_offset = call.label_offset;
  problem.query_id = call.query_id;
  problem.target_id = call.target_id;
  problem.weight = call.weight;
  problem.weight_stride = call.weight_stride;
  problem.softmaxes = {call.q2t != 0, call.t2q != 0, call.hit_by_column != 0, call.joint != 0};
  problem.reduction = static_cast<dual::Reduction>(call.reduction);
  problem.align = static_cast<float>(call.align);
  float* losses[dual::kLosses] = {call.loss, call.gen, call.disc, call.align_loss};
  const float* upstream[dual::kLosses] = {call.loss_grad, call.gen_grad, call.disc_grad,
                                          call.align_grad};
  for (int k = 0; k < dual::kLosses; ++k) {
    problem.loss[k] = losses[k];
    problem.upstream[k] = upstream[k];
  }
  problem.metrics = call.metrics;
  problem.slope = call.slope;
  problem.logit_grad = call.logit_grad;
  problem.scale_grad = call.scale_grad;
  return problem;
}

}  // namespace
}  // namespace umer1

// 0, or 1 if it failed: see dual_info_nce_message.
extern "C" int dual_info_nce(const Call* call) {
  using namespace umer1;
  try {
    Problem problem = problem_of(*call);
    const Launch launch =
        dual::plan_launch(problem, static_cast<int>(call->multiprocessors),
                          static_cast<int>(call->shared_bytes), call->makes_loss != 0,
                          call->makes_gradients != 0);
    if (launch.blocks == 0) throw std::invalid_argument("does not fit");
    if (launch.shared_bytes > call->shared_bytes) throw std::logic_error("too much shared memory");
    Workspace unused;
    const size_t bytes = dual::lay_out(problem, nullptr, unused) * sizeof(float);
    std::vector<unsigned char> memory(bytes + 16, 0xff);
    problem.workspace = reinterpret_cast<float*>(
        memory.data() + (16 - reinterpret_cast<uintptr_t>(memory.data()) % 16) % 16);
    const Options options = {static_cast<int>(call->multiprocessors),
                             static_cast<int>(call->shared_bytes), call->late_products != 0,
                             static_cast<unsigned>(call->seed)};
    if (call->warpgroups != 0) {
      launch.large ? run<true, dual::LargeShape>(problem, launch, options)
                   : run<true, dual::SmallShape>(problem, launch, options);
    } else {
      launch.large ? run<false, dual::LargeShape>(problem, launch, options)
                   : run<false, dual::SmallShape>(problem, launch, options);
    }
    return 0;
  } catch (const std::exception& error) {
    message = error.what();
    return 1;
  }
}

extern "C" const char* dual_info_nce_message() { return umer1::message.c_str(); }

// Of a launch: blocks (0: does not fit), tiles per block, slots for logits and for gradients, whether
// the gradients' tiles are large, bytes of shared memory, tiles of logits, tiles of the gradients.
extern "C" void dual_info_nce_plan(const Call* call, int64_t* result) {
  using namespace umer1;
  const Problem problem = problem_of(*call);
  const Launch launch =
      dual::plan_launch(problem, static_cast<int>(call->multiprocessors),
                        static_cast<int>(call->shared_bytes), call->makes_loss != 0,
                        call->makes_gradients != 0);
  const int gradients = launch.large ? dual::gradient_tiles<dual::LargeShape>(problem)
                                     : dual::gradient_tiles<dual::SmallShape>(problem);
  const int64_t values[] = {launch.blocks,       launch.tiles_per_block, launch.logits.slots,
                            launch.gradients.slots, launch.large,         launch.shared_bytes,
                            dual::logit_tiles(problem), gradients};
  std::memcpy(result, values, sizeof(values));
}
