// InfoNCE, one direction: the softmax over a row's negatives and its gradient, for a chunk of rows.
//
// Legend: N rows, C candidates. Logits come unscaled: x here, z = scale * x. A row's `excluded`
// entry (its positive, or itself) is no negative; the caller adds the positive, which keeps losses
// near zero exact. Differences are taken before the scale multiplies them, so that near ties keep
// their digits at any scale.

#include <cmath>
#include <limits>
#include <tuple>

#include "common/tensor.h"

#include <torch/csrc/stable/library.h>

namespace umer1 {
namespace {

template <typename T>
constexpr T kInfinity = std::numeric_limits<T>::infinity();

constexpr int kLanes = 16;  // one AVX-512 register of float
typedef float Lanes __attribute__((vector_size(4 * kLanes)));
typedef int32_t LaneMask __attribute__((vector_size(4 * kLanes)));
typedef int64_t WideLanes __attribute__((vector_size(8 * kLanes)));

// Over the candidates [begin, end) of a row: the largest sign * x; the sum of exp((x - best)
// scale); and x -> coefficient * exp((x - best) scale) in place.
template <typename T>
struct RowKernels {
  T (*maximum)(const T*, T sign, const int64_t*, int64_t, int64_t, int64_t, T start);
  T (*exp_sum)(const T*, T scale, const int64_t*, int64_t, int64_t, int64_t, T best);
  void (*softmax)(T*, T scale, const int64_t*, int64_t, int64_t, int64_t, T best, T coefficient);
};

#define UMER1_VARIANT portable
#define UMER1_TARGET
#include "cpu/nce_rows.inc"
#undef UMER1_VARIANT
#undef UMER1_TARGET

#if defined(__x86_64__)
#define UMER1_VARIANT avx2
#define UMER1_TARGET __attribute__((target("avx2,fma")))
#include "cpu/nce_rows.inc"
#undef UMER1_VARIANT
#undef UMER1_TARGET

#define UMER1_VARIANT avx512
#define UMER1_TARGET __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")))
#include "cpu/nce_rows.inc"
#undef UMER1_VARIANT
#undef UMER1_TARGET
#endif

// float64: plain loops, for exact checks rather than speed.
namespace exact {

bool masked(const int64_t* ids, int64_t j, int64_t id) { return ids != nullptr && ids[j] == id; }

double maximum(const double* logits, double sign, const int64_t* ids, int64_t id, int64_t begin,
               int64_t end, double start) {
  for (int64_t j = begin; j < end; ++j) {
    if (!masked(ids, j, id) && logits[j] * sign > start) start = logits[j] * sign;
  }
  return start;
}

double exp_sum(const double* logits, double scale, const int64_t* ids, int64_t id, int64_t begin,
               int64_t end, double best) {
  double sum = 0.0;
  for (int64_t j = begin; j < end; ++j) {
    if (!masked(ids, j, id)) sum += std::exp((logits[j] - best) * scale);
  }
  return sum;
}

void softmax(double* logits, double scale, const int64_t* ids, int64_t id, int64_t begin,
             int64_t end, double best, double coefficient) {
  for (int64_t j = begin; j < end; ++j) {
    logits[j] = masked(ids, j, id) ? 0.0 : coefficient * std::exp((logits[j] - best) * scale);
  }
}

}  // namespace exact

// What the processor can run, looked up at run time: the binary carries every variant.
template <typename T>
RowKernels<T> select_kernels();

template <>
RowKernels<double> select_kernels() {
  return {exact::maximum, exact::exp_sum, exact::softmax};
}

template <>
RowKernels<float> select_kernels() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")) {
    return {avx512::maximum, avx512::exp_sum, avx512::softmax};
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    return {avx2::maximum, avx2::exp_sum, avx2::softmax};
  }
#endif
  return {portable::maximum, portable::exp_sum, portable::softmax};
}

// The arguments both operators share, checked and contiguous.
struct Rows {
  int64_t count, candidates;
  Tensor excluded;
  std::optional<Tensor> row_id, candidate_id;

  Rows(const Tensor& logits, const Tensor& excluded_, const std::optional<Tensor>& row_id_,
       const std::optional<Tensor>& candidate_id_)
      : count(logits.size(0)),
        candidates(logits.size(1)),
        excluded(int64_vector(excluded_, "excluded", count)),
        row_id(int64_vector(row_id_, "row_id", count)),
        candidate_id(int64_vector(candidate_id_, "candidate_id", candidates)) {
    STD_TORCH_CHECK(row_id.has_value() == candidate_id.has_value(),
                    "row_id and candidate_id go together");
    const int64_t* entries = excluded.const_data_ptr<int64_t>();
    for (int64_t i = 0; i < count; ++i) {
      STD_TORCH_CHECK(entries[i] >= 0 && entries[i] < candidates, "excluded holds ", entries[i],
                      "; its entries must be in [0, ", candidates, ")");
    }
  }
};

template <typename T>
std::tuple<Tensor, Tensor> pool(const Tensor& logits, const Tensor& scale, const Rows& rows) {
  const RowKernels<T> kernels = select_kernels<T>();
  const T factor = scalar_value<T>(scale, "scale", dtype_of<T>());
  const T sign = factor < T(0) ? T(-1) : T(1);
  Tensor best = new_tensor(logits, {rows.count}, dtype_of<T>());
  Tensor sum = new_tensor(logits, {rows.count}, dtype_of<T>());
  const T* data = logits.const_data_ptr<T>();
  const int64_t* excluded = rows.excluded.const_data_ptr<int64_t>();
  const int64_t* row_id = int64_pointer(rows.row_id);
  const int64_t* ids = int64_pointer(rows.candidate_id);
  T* best_data = best.mutable_data_ptr<T>();
  T* sum_data = sum.mutable_data_ptr<T>();
  const int64_t candidates = rows.candidates;

  const auto run = [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const T* row = data + i * candidates;
      const int64_t id = row_id == nullptr ? 0 : row_id[i];
      const int64_t hole = excluded[i];
      T largest = kernels.maximum(row, sign, ids, id, 0, hole, -kInfinity<T>);
      largest = kernels.maximum(row, sign, ids, id, hole + 1, candidates, largest);
      // a row without negatives has sum 0; x - -inf would not give that
      const T offset = largest == -kInfinity<T> ? T(0) : largest * sign;
      best_data[i] = largest * sign;
      sum_data[i] = kernels.exp_sum(row, factor, ids, id, 0, hole, offset) +
                    kernels.exp_sum(row, factor, ids, id, hole + 1, candidates, offset);
    }
  };
  torch::stable::parallel_for(0, rows.count, row_grain(candidates), run);
  return {best, sum};
}

template <typename T>
void gradient(Tensor& logits, const Tensor& scale, const Rows& rows, const Tensor& best,
              const Tensor& coefficient) {
  const RowKernels<T> kernels = select_kernels<T>();
  const T factor = scalar_value<T>(scale, "scale", dtype_of<T>());
  const Tensor best_vector = vector_of(best, "best", dtype_of<T>(), rows.count);
  const Tensor coefficient_vector =
      vector_of(coefficient, "coefficient", dtype_of<T>(), rows.count);
  T* data = logits.mutable_data_ptr<T>();
  const int64_t* excluded = rows.excluded.const_data_ptr<int64_t>();
  const int64_t* row_id = int64_pointer(rows.row_id);
  const int64_t* ids = int64_pointer(rows.candidate_id);
  const T* best_data = best_vector.const_data_ptr<T>();
  const T* coefficients = coefficient_vector.const_data_ptr<T>();
  const int64_t candidates = rows.candidates;

  torch::stable::parallel_for(
      0, rows.count, row_grain(candidates), [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          T* row = data + i * candidates;
          // nothing to compute for a row that does not count
          if (coefficients[i] == T(0)) {
            for (int64_t j = 0; j < candidates; ++j) row[j] = T(0);
            continue;
          }
          const int64_t id = row_id == nullptr ? 0 : row_id[i];
          const int64_t hole = excluded[i];
          kernels.softmax(row, factor, ids, id, 0, hole, best_data[i], coefficients[i]);
          row[hole] = T(0);
          kernels.softmax(row, factor, ids, id, hole + 1, candidates, best_data[i],
                          coefficients[i]);
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

std::tuple<Tensor, Tensor> nce_row_pool(const Tensor& logits, const Tensor& scale,
                                        const Tensor& excluded, const std::optional<Tensor>& row_id,
                                        const std::optional<Tensor>& candidate_id) {
  check_logits(logits);
  const Rows rows(logits, excluded, row_id, candidate_id);
  return logits.scalar_type() == ScalarType::Double ? pool<double>(logits, scale, rows)
                                                    : pool<float>(logits, scale, rows);
}

void nce_row_gradient_(Tensor logits, const Tensor& scale, const Tensor& excluded,
                       const std::optional<Tensor>& row_id,
                       const std::optional<Tensor>& candidate_id, const Tensor& best,
                       const Tensor& coefficient) {
  check_logits(logits);
  const Rows rows(logits, excluded, row_id, candidate_id);
  if (logits.scalar_type() == ScalarType::Double) {
    gradient<double>(logits, scale, rows, best, coefficient);
  } else {
    gradient<float>(logits, scale, rows, best, coefficient);
  }
}

}  // namespace
}  // namespace umer1

STABLE_TORCH_LIBRARY_IMPL(umer1_kernels, CPU, m) {
  m.impl("nce_row_pool", TORCH_BOX(&umer1::nce_row_pool));
  m.impl("nce_row_gradient_", TORCH_BOX(&umer1::nce_row_gradient_));
}
