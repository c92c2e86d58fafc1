// One operand tile of each side multiplied: which fragments meet which sums.
//
// `Warp` and `Warpgroup` are the tensor cores' instructions, on a GPU or as the PTX manual describes
// them (tests/csrc/tensor_core_model.h). Addresses are those of the tiles in shared memory.

#pragma once

#include "common/operand_tile.h"

namespace umer1::dual {

// For the warp of this thread. Its 64 rows are four fragments, its columns come 16 at a time.
template <class Shape, Major kLeft, Major kRight, class Warp>
UMER1_HOST_DEVICE inline void warp_products(Warp& warp, int thread, uint32_t left, uint32_t right) {
  using Layout = WarpLayout<Shape>;
  constexpr int kAcross = Layout::kColumns / 8;  // instructions side by side
  const int row = Layout::first_row(thread), column = Layout::first_column(thread);
  // fragments loaded ahead take registers that many sums leave none of
  [[maybe_unused]] constexpr int kAtOnce = Shape::kSums > 128 ? 1 : kSteps;
  UMER1_UNROLL_BY(kAtOnce)
  for (int step = 0; step < kSteps; ++step) {
    UMER1_UNROLL
    for (int down = 0; down < 4; ++down) {
      warp.template load_left<kLeft == Major::kLine>(down, [&](int lane) {
        return left + left_fragment<kLeft>(row + down * 16, step, lane);
      });
    }
    UMER1_UNROLL
    for (int across = 0; across < kAcross; across += 2) {
      warp.template load_right<kRight == Major::kLine>([&](int lane) {
        return right + right_fragment<kRight>(column + across * 8, step, lane);
      });
      UMER1_UNROLL
      for (int down = 0; down < 4; ++down) {
        const int sum = (down * kAcross + across) * 4;
        warp.multiply(down, 0, sum);
        warp.multiply(down, 1, sum + 4);
      }
    }
  }
}

// For the warpgroup whose first row this is, 64 rows and all columns at a time.
template <class Shape, Major kLeft, Major kRight, class Warpgroup>
UMER1_HOST_DEVICE inline void warpgroup_products(Warpgroup& warpgroup, int row, uint32_t left,
                                                 uint32_t right) {
  using Layout = WarpgroupLayout<Shape>;
  UMER1_UNROLL
  for (int step = 0; step < kSteps; ++step) {
    const uint64_t right_matrix = matrix_descriptor<kRight>(right, 0, step);
    UMER1_UNROLL
    for (int part = 0; part < Layout::kParts; ++part) {
      const uint64_t left_matrix = matrix_descriptor<kLeft>(left, row + part * 64, step);
      warpgroup.template multiply<Shape::kColumns, kLeft == Major::kLine, kRight == Major::kLine>(
          part * Layout::kPartSums, left_matrix, right_matrix);
    }
  }
}

}  // namespace umer1::dual
