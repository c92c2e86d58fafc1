// What softmax_lanes.inc needs around it, and the same functions as one table per floating type.

#pragma once

#include <algorithm>
#include <cstdint>

#include "common/softmax_pool.h"
#include "cpu/lanes.h"

namespace umer1 {

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
