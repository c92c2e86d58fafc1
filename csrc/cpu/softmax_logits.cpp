// Softmaxes of logits that are in memory: row pools, column pools, gradient, float32 and float64.
//
// Legend: R rows, C candidates. Logits come unscaled: x here, z = scale * x. A row's `excluded` entry
// is no negative of it; candidates with the row's id are none either.

#include <cmath>
#include <tuple>
#include <vector>

#include "common/tensor.h"
#include "cpu/softmax_arguments.h"
#include "cpu/softmax_lanes.h"

#include <torch/csrc/stable/library.h>

namespace umer1 {
namespace {

#define UMER1_VARIANT portable
#define UMER1_TARGET
#include "cpu/softmax_lanes.inc"
#undef UMER1_VARIANT
#undef UMER1_TARGET

#if defined(__x86_64__)
#define UMER1_VARIANT avx2
#define UMER1_TARGET __attribute__((target("avx2,fma")))
#include "cpu/softmax_lanes.inc"
#undef UMER1_VARIANT
#undef UMER1_TARGET

#define UMER1_VARIANT avx512
#define UMER1_TARGET __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")))
#include "cpu/softmax_lanes.inc"
#undef UMER1_VARIANT
#undef UMER1_TARGET
#endif

// float64: plain loops over the arithmetic of common/softmax_pool.h, for exact checks, not for speed.
namespace exact {

bool masked(const NoNegatives& mask, int64_t j) {
  return j == mask.hole || (mask.ids != nullptr && mask.ids[j] == mask.id);
}

double row_best(const double* x, int64_t n, double sign, const NoNegatives& mask) {
  double best = -kInfinity<double>;
  for (int64_t j = 0; j < n; ++j) {
    if (!masked(mask, j) && x[j] * sign > best) best = x[j] * sign;
  }
  return best;
}

void row_exp(const double* x, int64_t n, double scale, const NoNegatives& mask, double best,
             double* out, double* total, double* moment) {
  const Exponential<double> exponential(scale);
  double sum = 0.0, of_z = 0.0;
  for (int64_t j = 0; j < n; ++j) {
    const double e = masked(mask, j) ? 0.0 : exponential(x[j] - best);
    sum += e;
    if (e > 0.0) of_z += e * ((x[j] - best) * scale);
    if (out != nullptr) out[j] = e;
  }
  *total = sum;
  if (moment != nullptr) *moment = of_z;
}

void row_gradient(double* x, int64_t n, double scale, const NoNegatives& mask, double best,
                  double row, double slope, const double* column_best, const double* column) {
  const Exponential<double> exponential(scale);
  for (int64_t j = 0; j < n; ++j) {
    double result = 0.0;
    if (!masked(mask, j)) {
      result = weighted(row, x[j], best, exponential);
      const double of_z = weighted(slope, x[j], best, exponential);
      if (of_z != 0.0) result += of_z * ((x[j] - best) * scale);
      if (column != nullptr) result += weighted(column[j], x[j], column_best[j], exponential);
    }
    x[j] = result;
  }
}

void column_merge(const double* panel, int64_t stride, int64_t rows, int64_t n, double scale,
                  const NoNegatives* masks, double* best, double* total) {
  const double sign = sign_of(scale);
  const Exponential<double> exponential(scale);
  for (int64_t j = 0; j < n; ++j) {
    Pool<double> pool = no_negatives(sign);
    for (int64_t i = 0; i < rows; ++i) {
      if (!masked(masks[i], j)) pool.best = better(pool.best, panel[i * stride + j], sign);
    }
    const double offset = offset_of(pool.best * sign) * sign;
    for (int64_t i = 0; i < rows; ++i) {
      if (!masked(masks[i], j)) pool.total += exponential(panel[i * stride + j] - offset);
    }
    pool = merged({best[j], total[j]}, pool, sign, exponential);
    best[j] = pool.best;
    total[j] = pool.total;
  }
}

}  // namespace exact

// What the processor can run, looked up at run time: the binary carries every variant.
template <typename T>
SoftmaxLanes<T> lanes_here();

template <>
SoftmaxLanes<double> lanes_here() {
  return {exact::row_best, exact::row_exp, exact::row_gradient, exact::column_merge};
}

template <>
SoftmaxLanes<float> lanes_here() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")) {
    return {avx512::row_best, avx512::row_exp, avx512::row_gradient, avx512::column_merge};
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    return {avx2::row_best, avx2::row_exp, avx2::row_gradient, avx2::column_merge};
  }
#endif
  return {portable::row_best, portable::row_exp, portable::row_gradient, portable::column_merge};
}

template <typename T>
std::tuple<Tensor, Tensor, Tensor> row_pools_of(const Tensor& logits, const Tensor& scale,
                                                const SoftmaxArguments& rows, bool moment) {
  const SoftmaxLanes<T> lanes = lanes_here<T>();
  const T factor = scalar_value<T>(scale, "scale", dtype_of<T>());
  const T sign = sign_of(factor);
  Tensor best = new_tensor(logits, {rows.count}, dtype_of<T>());
  Tensor total = new_tensor(logits, {rows.count}, dtype_of<T>());
  Tensor moments = new_tensor(logits, {moment ? rows.count : 0}, dtype_of<T>());
  const T* data = logits.const_data_ptr<T>();
  T* best_data = best.mutable_data_ptr<T>();
  T* total_data = total.mutable_data_ptr<T>();
  T* moment_data = moment ? moments.mutable_data_ptr<T>() : nullptr;
  const int64_t n = rows.candidates;
  torch::stable::parallel_for(0, rows.count, row_grain(n), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const NoNegatives mask = rows.mask(i, 0);
      const T largest = lanes.row_best(data + i * n, n, sign, mask);
      // a row without negatives has total 0; x minus infinity would not give that
      const T offset = offset_of(largest) * sign;
      best_data[i] = largest * sign;
      lanes.row_exp(data + i * n, n, factor, mask, offset, nullptr, total_data + i,
                    moment ? moment_data + i : nullptr);
    }
  });
  return {best, total, moments};
}

template <typename T>
std::tuple<Tensor, Tensor> column_pools_of(const Tensor& logits, const Tensor& scale,
                                           const SoftmaxArguments& rows) {
  constexpr int64_t kColumns = 256, kRows = 24;  // a panel stays in the cache
  const SoftmaxLanes<T> lanes = lanes_here<T>();
  const T factor = scalar_value<T>(scale, "scale", dtype_of<T>());
  Tensor best = new_tensor(logits, {rows.candidates}, dtype_of<T>());
  Tensor total = new_tensor(logits, {rows.candidates}, dtype_of<T>());
  const T* data = logits.const_data_ptr<T>();
  T* best_data = best.mutable_data_ptr<T>();
  T* total_data = total.mutable_data_ptr<T>();
  std::fill_n(best_data, rows.candidates, factor < T(0) ? kInfinity<T> : -kInfinity<T>);
  std::fill_n(total_data, rows.candidates, T(0));
  const int64_t blocks = (rows.candidates + kColumns - 1) / kColumns;
  torch::stable::parallel_for(0, blocks, 1, [&](int64_t begin, int64_t end) {
    NoNegatives masks[kRows];
    for (int64_t column = begin * kColumns; column < std::min(end * kColumns, rows.candidates);
         column += kColumns) {
      const int64_t n = std::min(kColumns, rows.candidates - column);
      for (int64_t row = 0; row < rows.count; row += kRows) {
        const int64_t count = std::min(kRows, rows.count - row);
        for (int64_t i = 0; i < count; ++i) masks[i] = rows.mask(row + i, column);
        lanes.column_merge(data + row * rows.candidates + column, rows.candidates, count, n, factor,
                           masks, best_data + column, total_data + column);
      }
    }
  });
  return {best, total};
}

template <typename T>
void gradient_of(Tensor& logits, const Tensor& scale, const SoftmaxArguments& rows,
                 const GradientArguments& gradient) {
  const SoftmaxLanes<T> lanes = lanes_here<T>();
  const T factor = scalar_value<T>(scale, "scale", dtype_of<T>());
  const CoefficientPointers<T> at(gradient);
  T* data = logits.mutable_data_ptr<T>();
  const int64_t n = rows.candidates;
  torch::stable::parallel_for(0, rows.count, row_grain(n), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const NoNegatives mask = rows.mask(i, 0);
      lanes.row_gradient(data + i * n, n, factor, mask, at.best[i], at.row[i], at.slope_of(i),
                         at.column_best, at.column);
      data[i * n + mask.hole] = at.label[i];
    }
  });
}

void check_logits(const Tensor& logits) {
  STD_TORCH_CHECK(logits.dim() == 2, "logits has ", logits.dim(), " dimensions, not 2");
  STD_TORCH_CHECK(logits.is_contiguous(), "logits must be contiguous");
  STD_TORCH_CHECK(
      logits.scalar_type() == ScalarType::Float || logits.scalar_type() == ScalarType::Double,
      "logits must be float32 or float64");
}

std::tuple<Tensor, Tensor, Tensor> row_pools(const Tensor& logits, const Tensor& scale,
                                             const Tensor& excluded,
                                             const std::optional<Tensor>& row_id,
                                             const std::optional<Tensor>& candidate_id,
                                             bool moment) {
  check_logits(logits);
  const SoftmaxArguments rows(logits.size(0), logits.size(1), excluded, row_id, candidate_id);
  return logits.scalar_type() == ScalarType::Double
             ? row_pools_of<double>(logits, scale, rows, moment)
             : row_pools_of<float>(logits, scale, rows, moment);
}

std::tuple<Tensor, Tensor> column_pools(const Tensor& logits, const Tensor& scale,
                                        const Tensor& excluded, const std::optional<Tensor>& row_id,
                                        const std::optional<Tensor>& candidate_id) {
  check_logits(logits);
  const SoftmaxArguments rows(logits.size(0), logits.size(1), excluded, row_id, candidate_id);
  return logits.scalar_type() == ScalarType::Double ? column_pools_of<double>(logits, scale, rows)
                                                    : column_pools_of<float>(logits, scale, rows);
}

void softmax_gradient_(Tensor logits, const Tensor& scale, const Tensor& excluded,
                       const std::optional<Tensor>& row_id,
                       const std::optional<Tensor>& candidate_id, const Tensor& best,
                       const Tensor& row, const Tensor& label, const std::optional<Tensor>& slope,
                       const std::optional<Tensor>& column_best,
                       const std::optional<Tensor>& column) {
  check_logits(logits);
  const SoftmaxArguments rows(logits.size(0), logits.size(1), excluded, row_id, candidate_id);
  const GradientArguments gradient(rows, logits.scalar_type(), best, row, label, slope, column_best,
                                   column);
  if (logits.scalar_type() == ScalarType::Double) {
    gradient_of<double>(logits, scale, rows, gradient);
  } else {
    gradient_of<float>(logits, scale, rows, gradient);
  }
}

}  // namespace
}  // namespace umer1

STABLE_TORCH_LIBRARY_IMPL(umer1_kernels, CPU, m) {
  m.impl("row_pools", TORCH_BOX(&umer1::row_pools));
  m.impl("column_pools", TORCH_BOX(&umer1::column_pools));
  m.impl("softmax_gradient_", TORCH_BOX(&umer1::softmax_gradient_));
}
