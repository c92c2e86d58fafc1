// The small dual InfoNCE kernel: the phases of common/dual_schedule.h with barriers of the grid.

#pragma once

#include <cooperative_groups.h>

#include "common/dual_gradients.h"
#include "common/dual_logits.h"
#include "common/dual_losses.h"
#include "common/dual_softmax.h"
#include "cuda/dual_block.cuh"

namespace umer1::cuda {

// Code for other GPUs has no warpgroups: what stands in for that kernel there takes no full block.
#if !defined(__CUDA_ARCH__) || UMER1_HAS_WARPGROUPS
constexpr int kWarpgroupThreads = dual::kThreads;
#else
constexpr int kWarpgroupThreads = 32;
#endif

template <bool kWarpgroups, class Shape>
__global__ void __launch_bounds__(kWarpgroups ? kWarpgroupThreads : dual::kThreads, 1)
    dual_info_nce_kernel(const __grid_constant__ dual::Problem problem,
                         const __grid_constant__ dual::Launch launch) {
  if constexpr (!kWarpgroups || UMER1_HAS_WARPGROUPS) {
    extern __shared__ __align__(1024) unsigned char shared[];
    DualBlock<kWarpgroups> block(shared);
    if (launch.makes_loss) {
      dual::Workspace workspace;
      dual::lay_out(problem, problem.workspace, workspace);
      const auto grid = cooperative_groups::this_grid();
      dual::first_phase(block, problem, workspace, launch);
      grid.sync();
      dual::second_phase(block, problem, workspace, launch);
      grid.sync();
      if (block.id() == block.all() - 1) dual::finish_losses(block, problem, workspace);
    }
    if (launch.makes_gradients) dual::third_phase<Shape>(block, problem, launch.gradients);
  }
}

}  // namespace umer1::cuda
