// What softmax_lanes.inc needs around it, and the same functions as one table per floating type.

#pragma once

#include <algorithm>
#include <cstdint>

#include "common/softmax_pool.h"

namespace umer1 {

constexpr int kLanes = 16;  // one AVX-512 register of float
typedef float Lanes __attribute__((vector_size(4 * kLanes)));
typedef int32_t LaneMask __attribute__((vector_size(4 * kLanes)));
typedef int64_t WideLanes __attribute__((vector_size(8 * kLanes)));
constexpr LaneMask kLaneIndex = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

// Candidates that are no negatives of a row, counted from the first column at hand.
struct NoNegatives {
  int64_t hole;        // the row's own entry; may lie outside
  const int64_t* ids;  // of the candidates, or null
  int64_t id;          // of the row
};

// See softmax_lanes.inc.
template <typename T>
struct SoftmaxLanes {
  T (*row_best)(const T*, int64_t n, T sign, const NoNegatives&);
  void (*row_exp)(const T*, int64_t n, T scale, const NoNegatives&, T best, T* out, T* total,
                  T* moment);
  void (*row_gradient)(T*, int64_t n, T scale, const NoNegatives&, T best, T row, T slope,
                       const T* column_best, const T* column);
  void (*column_merge)(const T* panel, int64_t stride, int64_t rows, int64_t n, T scale,
                       const NoNegatives*, T* best, T* total);
};

}  // namespace umer1
