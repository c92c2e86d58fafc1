// group_reward of both sides in one cooperative launch. Its phases are in
// common/group_reward_phases.h; here are the products of a tile, and the launch.

#include <cooperative_groups.h>

#include <algorithm>
#include <optional>
#include <tuple>

#include <torch/csrc/stable/library.h>

#include "common/group_reward_phases.h"
#include "cuda/block.cuh"
#include "cuda/launch.cuh"
#include "cuda/numbers.cuh"

namespace umer1::cuda {
namespace {

using reward::kLanes, reward::kSlices, reward::kTileColumns, reward::kTileRows, reward::kVector;

// Each warp multiplies 8 rows by 8 columns over one slice of the depth: a lane reads 4 consecutive
// elements of all 16 lines and adds to 64 sums, which the lanes then add up among themselves.
template <typename In, bool kAligned>
struct WarpProducts {
  static constexpr int kSide = 8, kSums = kSide * kSide;
  static_assert(kTileColumns == kSide && kTileRows == 2 * kSide && kSums == 2 * kLanes);
  static_assert(reward::kWorkers == 2 * kSlices * kLanes);

  const In* query;   // [C, dim]
  const In* target;  // [C, dim]
  int dim;

  UMER1_HOST_DEVICE void operator()(reward::BlockState& state) const {
#ifdef __CUDA_ARCH__
    const int lane = threadIdx.x % kLanes, warp = threadIdx.x / kLanes;
    const int half = warp % 2, slice = warp / 2;
    const In* rows[kSide];
    const In* columns[kSide];
#pragma unroll
    for (int i = 0; i < kSide; ++i) {
      // where there is no candidate any row will do: nobody reads the product
      const int row = max(state.rows.candidate[half * kSide + i], 0);
      const int column = max(state.columns.candidate[i], 0);
      rows[i] = query + static_cast<int64_t>(row) * dim;
      columns[i] = target + static_cast<int64_t>(column) * dim;
    }
    float sum[kSums] = {};
#pragma unroll 1
    for (int k = reward::first_depth(slice, lane); k < dim; k += reward::kDepthStep) {
      float left[kSide][kVector], right[kSide][kVector];
#pragma unroll
      for (int i = 0; i < kSide; ++i) {
        load(rows[i], k, left[i]);
        load(columns[i], k, right[i]);
      }
#pragma unroll
      for (int v = 0; v < kVector; ++v) {
#pragma unroll
        for (int pair = 0; pair < kSums; ++pair) {
          sum[pair] = fmaf(left[pair / kSide][v], right[pair % kSide][v], sum[pair]);
        }
      }
    }
    add_up(sum, lane);
    *reinterpret_cast<float2*>(&state.slices[slice][half * kSums + 2 * lane]) = {sum[0], sum[1]};
    __syncthreads();
#endif
  }

 private:
#ifdef __CUDACC__
  __device__ void load(const In* row, int k, float (&values)[kVector]) const {
    if constexpr (kAligned) {
      const auto pack = *reinterpret_cast<const Pack<In, kVector>*>(row + k);
#pragma unroll
      for (int v = 0; v < kVector; ++v) values[v] = widen(pack.value[v]);
    } else {
#pragma unroll
      for (int v = 0; v < kVector; ++v) values[v] = k + v < dim ? widen(row[k + v]) : 0.0f;
    }
  }

  // Over all lanes; sums 2 * lane and 2 * lane + 1 are left at the front. Each step halves what a
  // lane carries: it keeps one half and gets the other lane's share of it.
  template <int kWidth = kSums / 2>
  __device__ static void add_up(float (&sum)[kSums], int lane) {
    constexpr int kMask = kWidth / 2;
    const bool upper = (lane & kMask) != 0;
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      const float sent = upper ? sum[i] : sum[i + kWidth];
      const float kept = upper ? sum[i + kWidth] : sum[i];
      sum[i] = kept + __shfl_xor_sync(0xffffffffu, sent, kMask);
    }
    if constexpr (kMask > 1) add_up<kWidth / 2>(sum, lane);
  }
#endif
};

template <typename In, bool kAligned>
__global__ void __launch_bounds__(reward::kWorkers, 1)
    group_reward_kernel(const In* query, const In* target, const reward::Problem problem,
                        const reward::Schedule schedule, const reward::Work work,
                        const reward::Result result) {
  __shared__ reward::BlockState state;
  const ThreadBlock<reward::kWorkers> block;
  const WarpProducts<In, kAligned> products = {query, target, problem.dim};
  const auto grid = cooperative_groups::this_grid();
  reward::first_phase(block, products, problem, schedule, work, state);
  grid.sync();
  reward::second_phase(block, products, problem, schedule, work, state);
  grid.sync();
  reward::third_phase(block, problem, schedule, work, result, state);
}

template <typename In>
void launch(const Tensor& query, const Tensor& target, reward::Problem problem,
            reward::Result result) {
  reward::Schedule schedule = reward::schedule_of(problem);
  reward::Work work = {};
  const int64_t bytes = reward::lay_out(problem, schedule, nullptr, work);
  const Tensor scratch = new_tensor(query, {bytes}, ScalarType::Byte);
  reward::lay_out(problem, schedule, static_cast<char*>(scratch.mutable_data_ptr()), work);

  const void* left = query.const_data_ptr();
  const void* right = target.const_data_ptr();
  constexpr size_t kBytes = sizeof(In) * kVector;
  const bool aligned =
      problem.dim % kVector == 0 && is_aligned(left, kBytes) && is_aligned(right, kBytes);
  const void* kernel = aligned ? reinterpret_cast<const void*>(&group_reward_kernel<In, true>)
                               : reinterpret_cast<const void*>(&group_reward_kernel<In, false>);
  // all blocks must run at once: one per multiprocessor always can
  const int useful = std::max(schedule.tasks(), 2 * (problem.count / problem.size));
  const int blocks = std::min(useful, multiprocessors(query));
  void* arguments[] = {&left, &right, &problem, &schedule, &work, &result};
  check(cudaLaunchCooperativeKernel(kernel, dim3(blocks), dim3(reward::kWorkers), arguments, 0,
                                    current_stream(query)),
        "group_reward cannot be launched");
}

std::optional<Tensor> flags(const std::optional<Tensor>& valid, const char* name,
                            const Tensor& like) {
  check_device(valid, name, like);
  if (!valid.has_value()) return std::nullopt;
  check_shape(*valid, name, {like.size(0), like.size(1)});
  check_dtype(*valid, name, ScalarType::Bool);
  return torch::stable::contiguous(*valid);
}

const bool* pointer(const std::optional<Tensor>& valid) {
  return valid.has_value() ? valid->const_data_ptr<bool>() : nullptr;
}

// Candidates [P, G, d] of both sides; this process's are `pairs` pairs from `first_pair` on.
std::tuple<Tensor, Tensor, Tensor, Tensor> group_reward_from_vectors(
    const Tensor& query, const Tensor& target, const std::optional<Tensor>& query_valid,
    const std::optional<Tensor>& target_valid, const std::optional<Tensor>& threshold,
    int64_t first_pair, int64_t pairs, int64_t kind) {
  STD_TORCH_CHECK(query.dim() == 3, "query has ", query.dim(), " dimensions, not 3");
  const int64_t all = query.size(0), size = query.size(1), dim = query.size(2);
  check_shape(target, "target", {all, size, dim});
  check_dtype(target, "target", query.scalar_type());
  check_device(target, "target", query);
  check_device(threshold, "threshold", query);
  STD_TORCH_CHECK(size >= 1 && size <= reward::kMostRollouts, "query has ", size,
                  " rollouts per pair; the kernel takes 1 to ", reward::kMostRollouts);
  STD_TORCH_CHECK(dim >= 1 && all * size < int64_t{1} << 30 && dim < int64_t{1} << 30,
                  "query has ", all * size, " rollouts of dimension ", dim,
                  "; the kernel counts both in 30 bits");
  STD_TORCH_CHECK(first_pair >= 0 && pairs >= 1 && first_pair + pairs <= all, "pairs ", first_pair,
                  " to ", first_pair + pairs, " are not among the ", all, " of query");
  STD_TORCH_CHECK(kind >= 0 && kind < reward::kKinds, "kind is ", kind, ", not 0 to ",
                  reward::kKinds - 1);
  // the middle of the similarities is found from those of all candidates
  STD_TORCH_CHECK(threshold.has_value() || pairs == all ||
                      kind != static_cast<int64_t>(reward::Kind::kAdaptiveThreshold),
                  "threshold must be given where the pairs are not all of query");
  if (threshold.has_value()) {
    STD_TORCH_CHECK(threshold->numel() == 1, "threshold must be one number");
    check_dtype(*threshold, "threshold", ScalarType::Float);
  }
  const torch::stable::accelerator::DeviceGuard guard(query.get_device_index());
  const Tensor left = torch::stable::contiguous(query);
  const Tensor right = torch::stable::contiguous(target);
  const auto left_valid = flags(query_valid, "query_valid", query);
  const auto right_valid = flags(target_valid, "target_valid", query);
  const reward::Problem problem = {
      static_cast<int>(all * size),
      static_cast<int>(size),
      static_cast<int>(dim),
      static_cast<int>(first_pair * size),
      static_cast<int>(pairs * size),
      static_cast<reward::Kind>(kind),
      pointer(left_valid),
      pointer(right_valid),
      threshold.has_value() ? threshold->const_data_ptr<float>() : nullptr,
  };
  const auto out = [&] { return new_tensor(query, {2, pairs, size}, ScalarType::Float); };
  const std::tuple<Tensor, Tensor, Tensor, Tensor> outputs = {out(), out(), out(), out()};
  const auto& [rewards, advantages, rank, gap] = outputs;
  const reward::Result result = {rewards.mutable_data_ptr<float>(),
                                 advantages.mutable_data_ptr<float>(),
                                 rank.mutable_data_ptr<float>(), gap.mutable_data_ptr<float>()};
  switch (query.scalar_type()) {
    case ScalarType::BFloat16:
      launch<__nv_bfloat16>(left, right, problem, result);
      break;
    case ScalarType::Half:
      launch<__half>(left, right, problem, result);
      break;
    default:
      check_dtype(query, "query (float32, bfloat16 or float16)", ScalarType::Float);
      launch<float>(left, right, problem, result);
  }
  return outputs;
}

}  // namespace
}  // namespace umer1::cuda

STABLE_TORCH_LIBRARY_IMPL(umer1_kernels, CUDA, m) {
  m.impl("group_reward_from_vectors", TORCH_BOX(&umer1::cuda::group_reward_from_vectors));
}
