// info_nce and dual_info_nce of a small batch: losses, metrics and gradients in one launch.
//
// Legend: N queries, M targets, D dimension; see common/dual_problem.h for sides and pairs.

#include <optional>
#include <tuple>

#include "common/tensor.h"
#include "cuda/dual_info_nce_kernel.cuh"
#include "cuda/launch.cuh"

#include <torch/csrc/stable/library.h>

namespace umer1::cuda {
namespace {

using dual::Launch;
using dual::Problem;
using MaybeTensor = std::optional<Tensor>;

// Which instructions multiply: those of warpgroups where there are any, or as asked (for tests).
enum class Engine : int64_t { kBest, kWarps, kWarpgroups };
enum class Make : int64_t { kLoss, kLogitGradient, kGradients };

// The vectors as the kernel reads them: rows without gaps that begin at 16-byte boundaries.
struct Vectors {
  Tensor held;  // as long as the kernel's launch
  dual::Rows rows;

  Vectors(const Tensor& tensor, const char* name, const Tensor& like) : held(tensor) {
    check_device(tensor, name, like);
    check_dtype(tensor, name, ScalarType::BFloat16);
    STD_TORCH_CHECK(tensor.dim() == 2, name, " has ", tensor.dim(), " dimensions, not 2");
    STD_TORCH_CHECK(tensor.size(0) >= 1 && tensor.size(0) <= dual::kMostLines, name, " has ",
                    tensor.size(0), " rows; the kernel takes 1 to ", dual::kMostLines);
    STD_TORCH_CHECK(tensor.size(1) >= 1 && tensor.size(1) % dual::kPiece == 0, name,
                    " has dimension ", tensor.size(1), "; the kernel takes multiples of ",
                    dual::kPiece);
    STD_TORCH_CHECK(tensor.size(1) < int64_t{1} << 24, name, " has dimension ", tensor.size(1),
                    "; the kernel takes less than 2^24");
    // a single row has no next one
    const auto gap = [&] { return held.size(0) > 1 ? held.stride(0) : held.size(1); };
    if (held.stride(1) != 1 || gap() % dual::kPiece != 0 || gap() < held.size(1)) {
      held = torch::stable::contiguous(held);
    }
    if (!is_aligned(held.const_data_ptr(), 16)) {
      held = torch::stable::clone(torch::stable::contiguous(held));
    }
    rows = {static_cast<const uint16_t*>(held.const_data_ptr()), gap()};
  }
};

// Both sides' vectors, or one side's.
struct Inputs {
  std::optional<Vectors> query[dual::kSides], target[dual::kSides];

  Inputs(const Tensor& gen_query, const Tensor& gen_target, const MaybeTensor& disc_query,
         const MaybeTensor& disc_target, bool crossed, Problem& problem) {
    STD_TORCH_CHECK(disc_query.has_value() == disc_target.has_value(),
                    "disc_query and disc_target go together");
    STD_TORCH_CHECK(disc_query.has_value() || !crossed, "crossed pairs need disc_query");
    query[0].emplace(gen_query, "gen_query", gen_query);
    target[0].emplace(gen_target, "gen_target", gen_query);
    if (disc_query.has_value()) {
      query[1].emplace(*disc_query, "disc_query", gen_query);
      target[1].emplace(*disc_target, "disc_target", gen_query);
    }
    problem.queries = static_cast<int>(gen_query.size(0));
    problem.targets = static_cast<int>(gen_target.size(0));
    problem.sides = disc_query.has_value() ? 2 : 1;
    problem.crossed = crossed;
    for (int side = 0; side < problem.sides; ++side) {
      const int64_t dimension = query[side]->held.size(1);
      check_shape(query[side]->held, side == 0 ? "gen_query" : "disc_query",
                  {problem.queries, dimension});
      check_shape(target[side]->held, side == 0 ? "gen_target" : "disc_target",
                  {problem.targets, dimension});
      problem.dimension[side] = static_cast<int>(dimension);
      problem.query[side] = query[side]->rows;
      problem.target[side] = target[side]->rows;
    }
    STD_TORCH_CHECK(!crossed || problem.dimension[0] == problem.dimension[1],
                    "crossed pairs need one dimension, not ", problem.dimension[0], " and ",
                    problem.dimension[1]);
  }
};

const float* float_pointer(const MaybeTensor& tensor, const char* name, const Tensor& like) {
  if (!tensor.has_value()) return nullptr;
  check_device(*tensor, name, like);
  check_dtype(*tensor, name, ScalarType::Float);
  STD_TORCH_CHECK(tensor->numel() == 1, name, " must be one number");
  return tensor->const_data_ptr<float>();
}

// Empty, or the gradient of these rows; the kernel finds it in `place`.
Tensor gradient_like(const Tensor& like, int64_t rows, int64_t dimension, bool wanted,
                     uint16_t*& place) {
  place = nullptr;
  if (!wanted) return new_tensor(like, {0}, ScalarType::BFloat16);
  const Tensor result = new_tensor(like, {rows, dimension}, ScalarType::BFloat16);
  place = static_cast<uint16_t*>(result.mutable_data_ptr());
  return result;
}

using Gradients = std::tuple<Tensor, Tensor, Tensor, Tensor>;

// `needed`: bits for gen_query, gen_target, disc_query, disc_target.
Gradients new_gradients(const Tensor& like, Problem& problem, int64_t needed) {
  const auto of = [&](int side, bool target) {
    const bool wanted = side < problem.sides && (needed >> (2 * side + target) & 1) != 0;
    return gradient_like(like, target ? problem.targets : problem.queries, problem.dimension[side],
                         wanted, target ? problem.target_grad[side] : problem.query_grad[side]);
  };
  return {of(0, false), of(0, true), of(1, false), of(1, true)};
}

const void* kernel_of(bool warpgroups, bool large) {
  using dual::LargeShape, dual::SmallShape;
  if (warpgroups) {
    return large ? reinterpret_cast<const void*>(&dual_info_nce_kernel<true, LargeShape>)
                 : reinterpret_cast<const void*>(&dual_info_nce_kernel<true, SmallShape>);
  }
  return large ? reinterpret_cast<const void*>(&dual_info_nce_kernel<false, LargeShape>)
               : reinterpret_cast<const void*>(&dual_info_nce_kernel<false, SmallShape>);
}

// Whether the code that the driver chose for this GPU has warpgroups.
bool has_warpgroups(bool large) {
  cudaFuncAttributes attributes;
  check(cudaFuncGetAttributes(&attributes, kernel_of(true, large)), "dual_info_nce is not there");
  return attributes.maxThreadsPerBlock >= dual::kThreads;
}

void launch(const Tensor& like, Problem& problem, bool makes_loss, bool makes_gradients,
            int64_t engine) {
  int shared = 0;
  check(cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin,
                               like.get_device_index()),
        "the size of shared memory cannot be read");
  const int count = multiprocessors(like);
  Launch plan = dual::plan_launch(problem, count, shared, makes_loss, makes_gradients);
  STD_TORCH_CHECK(plan.blocks > 0, "the logits of ", problem.queries, " x ", problem.targets,
                  " in ", problem.pairs(), " pairs are ", dual::logit_tiles(problem),
                  " tiles of 128 x 128, more than ", count, " multiprocessors with ", shared,
                  " bytes of shared memory keep");
  bool warpgroups = false;
  if (static_cast<Engine>(engine) != Engine::kWarps) warpgroups = has_warpgroups(plan.large);
  STD_TORCH_CHECK(static_cast<Engine>(engine) != Engine::kWarpgroups || warpgroups,
                  "engine is warpgroups, but there is no such code for this GPU");
  const void* kernel = kernel_of(warpgroups, plan.large);
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             plan.shared_bytes),
        "dual_info_nce does not get its shared memory");
  void* arguments[] = {&problem, &plan};
  const auto stream = current_stream(like);
  // a launch without phases 1 and 2 has no barrier
  const cudaError_t error =
      makes_loss ? cudaLaunchCooperativeKernel(kernel, dim3(plan.blocks), dim3(dual::kThreads),
                                               arguments, plan.shared_bytes, stream)
                 : cudaLaunchKernel(kernel, dim3(plan.blocks), dim3(dual::kThreads), arguments,
                                    plan.shared_bytes, stream);
  check(error, "dual_info_nce cannot be launched");
}

MaybeTensor int64_like(const MaybeTensor& tensor, const char* name, int64_t length,
                       const Tensor& like) {
  check_device(tensor, name, like);
  return int64_vector(tensor, name, length);
}

// loss, gen, disc, align; metrics [sides, 3]; slope [4]; gradient of the logits (empty unless made);
// gradients of the vectors (empty unless made).
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>
small_dual_info_nce(const Tensor& gen_query, const Tensor& gen_target,
                    const MaybeTensor& disc_query, const MaybeTensor& disc_target,
                    const MaybeTensor& scale, double fixed_scale, const MaybeTensor& labels,
                    int64_t label_offset, const MaybeTensor& query_id,
                    const MaybeTensor& target_id, const MaybeTensor& weight, bool q2t, bool t2q,
                    bool hit_by_column, bool joint, int64_t reduction, bool crossed, double align,
                    int64_t make, int64_t engine) {
  Problem problem = {};
  STD_TORCH_CHECK(gen_query.is_cuda(), "gen_query is not on a CUDA device");
  const torch::stable::accelerator::DeviceGuard guard(gen_query.get_device_index());
  const Inputs inputs(gen_query, gen_target, disc_query, disc_target, crossed, problem);
  STD_TORCH_CHECK(q2t || t2q, "directions must hold q2t or t2q");
  STD_TORCH_CHECK(reduction >= 0 && reduction <= 2, "reduction is ", reduction, ", not 0 to 2");
  STD_TORCH_CHECK(make >= 0 && make <= 2, "make is ", make, ", not 0 to 2");
  STD_TORCH_CHECK(!labels.has_value() || !t2q, "labels go with q2t alone");
  STD_TORCH_CHECK(labels.has_value() ||
                      (label_offset >= 0 && label_offset + problem.queries <= problem.targets),
                  "label_offset ", label_offset, " leaves no own target for all ", problem.queries,
                  " queries among ", problem.targets, " targets");
  STD_TORCH_CHECK(query_id.has_value() == target_id.has_value(),
                  "query_id and target_id go together");
  const auto row_labels = int64_like(labels, "labels", problem.queries, gen_query);
  const auto query_ids = int64_like(query_id, "query_id", problem.queries, gen_query);
  const auto target_ids = int64_like(target_id, "target_id", problem.targets, gen_query);
  problem.scale = float_pointer(scale, "scale", gen_query);
  problem.fixed_scale = static_cast<float>(fixed_scale);
  problem.label = int64_pointer(row_labels);
  problem.label_offset = label_offset;
  problem.query_id = int64_pointer(query_ids);
  problem.target_id = int64_pointer(target_ids);
  MaybeTensor weights;
  if (weight.has_value()) {
    check_device(*weight, "weight", gen_query);
    check_dtype(*weight, "weight", ScalarType::Float);
    const bool by_term = weight->dim() == 2;
    if (by_term) {
      check_shape(*weight, "weight", {3, problem.queries});
    } else {
      check_shape(*weight, "weight", {problem.queries});
    }
    weights = torch::stable::contiguous(*weight);
    problem.weight = weights->const_data_ptr<float>();
    problem.weight_stride = by_term ? problem.queries : 0;
  }
  problem.softmaxes = {q2t, t2q, hit_by_column, joint};
  problem.reduction = static_cast<dual::Reduction>(reduction);
  problem.align = static_cast<float>(align);

  const std::vector<int64_t> shape =
      problem.reduction == dual::Reduction::kNone ? std::vector<int64_t>{problem.queries}
                                                  : std::vector<int64_t>{};
  Tensor loss[dual::kLosses];
  for (int k = 0; k < dual::kLosses; ++k) {
    loss[k] = new_tensor(gen_query, shape, ScalarType::Float);
    problem.loss[k] = loss[k].mutable_data_ptr<float>();
  }
  const Tensor metrics =
      new_tensor(gen_query, {problem.sides, dual::kMetrics}, ScalarType::Float);
  const Tensor slope = new_tensor(gen_query, {dual::kLosses}, ScalarType::Float);
  problem.metrics = metrics.mutable_data_ptr<float>();
  problem.slope = slope.mutable_data_ptr<float>();
  const bool gradients = static_cast<Make>(make) == Make::kGradients;
  const Gradients grads = new_gradients(gen_query, problem, gradients ? 15 : 0);
  const Tensor none = new_tensor(gen_query, {0}, ScalarType::BFloat16);
  Tensor logit_grad = none;
  if (static_cast<Make>(make) != Make::kLoss) {
    logit_grad = new_tensor(gen_query,
                            {problem.pairs(), dual::padded_queries(problem),
                             dual::padded_targets(problem)},
                            ScalarType::BFloat16);
    problem.logit_grad = static_cast<uint16_t*>(logit_grad.mutable_data_ptr());
  }
  dual::Workspace unused;
  const int64_t floats = dual::lay_out(problem, nullptr, unused);
  const Tensor workspace = new_tensor(gen_query, {floats}, ScalarType::Float);
  problem.workspace = workspace.mutable_data_ptr<float>();
  launch(gen_query, problem, true, gradients, engine);
  const auto& [gen_query_grad, gen_target_grad, disc_query_grad, disc_target_grad] = grads;
  return {loss[0],        loss[1],         loss[2],        loss[3],
          metrics,        slope,           gradients ? none : logit_grad,
          gen_query_grad, gen_target_grad, disc_query_grad, disc_target_grad};
}

// The gradients from those of the logits and the upstream ones of loss, gen, disc and align; that of
// the scale last. `needed`: bits for gen_query, gen_target, disc_query, disc_target.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> small_dual_info_nce_gradient(
    const Tensor& gen_query, const Tensor& gen_target, const MaybeTensor& disc_query,
    const MaybeTensor& disc_target, const Tensor& logit_grad, const Tensor& slope,
    const MaybeTensor& loss_grad, const MaybeTensor& gen_grad, const MaybeTensor& disc_grad,
    const MaybeTensor& align_grad, bool crossed, double align, int64_t needed, int64_t engine) {
  Problem problem = {};
  STD_TORCH_CHECK(gen_query.is_cuda(), "gen_query is not on a CUDA device");
  const torch::stable::accelerator::DeviceGuard guard(gen_query.get_device_index());
  const Inputs inputs(gen_query, gen_target, disc_query, disc_target, crossed, problem);
  problem.align = static_cast<float>(align);
  check_device(logit_grad, "logit_grad", gen_query);
  check_dtype(logit_grad, "logit_grad", ScalarType::BFloat16);
  check_shape(logit_grad, "logit_grad",
              {problem.pairs(), dual::padded_queries(problem), dual::padded_targets(problem)});
  STD_TORCH_CHECK(logit_grad.is_contiguous(), "logit_grad must be contiguous");
  check_device(slope, "slope", gen_query);
  const Tensor slopes = vector_of(slope, "slope", ScalarType::Float, dual::kLosses);
  problem.logit_grad = static_cast<uint16_t*>(logit_grad.data_ptr());  // only read
  problem.slope = static_cast<float*>(slopes.data_ptr());              // only read
  problem.upstream[dual::kTotal] = float_pointer(loss_grad, "loss_grad", gen_query);
  problem.upstream[dual::kGen] = float_pointer(gen_grad, "gen_grad", gen_query);
  problem.upstream[dual::kDisc] = float_pointer(disc_grad, "disc_grad", gen_query);
  problem.upstream[dual::kAlign] = float_pointer(align_grad, "align_grad", gen_query);
  const Gradients grads = new_gradients(gen_query, problem, needed);
  const Tensor scale_grad = new_tensor(gen_query, {}, ScalarType::Float);
  problem.scale_grad = scale_grad.mutable_data_ptr<float>();
  launch(gen_query, problem, false, true, engine);
  const auto& [gen_query_grad, gen_target_grad, disc_query_grad, disc_target_grad] = grads;
  return {gen_query_grad, gen_target_grad, disc_query_grad, disc_target_grad, scale_grad};
}

}  // namespace
}  // namespace umer1::cuda

STABLE_TORCH_LIBRARY_IMPL(umer1_kernels, CUDA, m) {
  m.impl("small_dual_info_nce", TORCH_BOX(&umer1::cuda::small_dual_info_nce));
  m.impl("small_dual_info_nce_gradient", TORCH_BOX(&umer1::cuda::small_dual_info_nce_gradient));
}
