// Arguments that the softmax operators share, checked and contiguous.

#pragma once

#include "common/tensor.h"
#include "cpu/softmax_lanes.h"

namespace umer1 {

// Which candidates are no negatives of which of `count` rows.
struct SoftmaxArguments {
  int64_t count, candidates;
  Tensor excluded;
  std::optional<Tensor> row_id, candidate_id;

  SoftmaxArguments(int64_t count_, int64_t candidates_, const Tensor& excluded_,
                   const std::optional<Tensor>& row_id_, const std::optional<Tensor>& candidate_id_)
      : count(count_),
        candidates(candidates_),
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

  // For row i and the candidates from `column` on.
  NoNegatives mask(int64_t i, int64_t column) const {
    const int64_t hole = excluded.const_data_ptr<int64_t>()[i] - column;
    if (!row_id.has_value()) return {hole, nullptr, 0};
    return {hole, candidate_id->const_data_ptr<int64_t>() + column,
            row_id->const_data_ptr<int64_t>()[i]};
  }
};

// The coefficients of a softmax gradient.
struct GradientArguments {
  Tensor best, row, label;
  std::optional<Tensor> slope, column_best, column;

  GradientArguments(const SoftmaxArguments& rows, ScalarType dtype, const Tensor& best_,
                    const Tensor& row_, const Tensor& label_, const std::optional<Tensor>& slope_,
                    const std::optional<Tensor>& column_best_,
                    const std::optional<Tensor>& column_)
      : best(vector_of(best_, "best", dtype, rows.count)),
        row(vector_of(row_, "row", dtype, rows.count)),
        label(vector_of(label_, "label", dtype, rows.count)) {
    STD_TORCH_CHECK(column_best_.has_value() == column_.has_value(),
                    "column_best and column go together");
    if (slope_.has_value()) slope = vector_of(*slope_, "slope", dtype, rows.count);
    if (column_.has_value()) {
      column_best = vector_of(*column_best_, "column_best", dtype, rows.candidates);
      column = vector_of(*column_, "column", dtype, rows.candidates);
    }
  }
};

template <typename T>
struct CoefficientPointers {
  const T *best, *row, *label, *slope, *column_best, *column;

  explicit CoefficientPointers(const GradientArguments& from)
      : best(from.best.const_data_ptr<T>()),
        row(from.row.const_data_ptr<T>()),
        label(from.label.const_data_ptr<T>()),
        slope(from.slope.has_value() ? from.slope->const_data_ptr<T>() : nullptr),
        column_best(from.column.has_value() ? from.column_best->const_data_ptr<T>() : nullptr),
        column(from.column.has_value() ? from.column->const_data_ptr<T>() : nullptr) {}

  T slope_of(int64_t i) const { return slope == nullptr ? T(0) : slope[i]; }
};

}  // namespace umer1
