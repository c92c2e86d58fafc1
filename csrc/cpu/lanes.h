// What lanes.inc needs around it: vectors of sixteen numbers, whatever the instruction set.

#pragma once

#include <algorithm>
#include <cstdint>

#include "common/infinity.h"

namespace umer1 {

constexpr int kLanes = 16;  // one AVX-512 register of float
typedef float Lanes __attribute__((vector_size(4 * kLanes)));
typedef int32_t LaneMask __attribute__((vector_size(4 * kLanes)));
typedef int64_t WideLanes __attribute__((vector_size(8 * kLanes)));
constexpr LaneMask kLaneIndex = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

}  // namespace umer1
