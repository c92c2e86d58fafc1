// Scores of rollouts in groups: rank, gap and threshold share of every row of one side.
//
// Legend: R rows, C candidates, G rollouts per pair. The positives of row i are the G candidates of
// its own pair.

#include <limits>
#include <tuple>
#include <vector>

#include "common/tensor.h"

#include <torch/csrc/stable/library.h>

namespace umer1 {
namespace {

struct Score {
  double rank = 0.0, gap = 0.0, share = 0.0;
};

// Running mean similarity and how many reach the threshold.
struct Tally {
  double sum = 0.0;
  int64_t count = 0, reached = 0;

  template <typename T>
  void add(const T* values, const bool* valid, int64_t begin, int64_t end, double threshold) {
    for (int64_t j = begin; j < end; ++j) {
      sum += valid[j] ? static_cast<double>(values[j]) : 0.0;
      count += valid[j];
      reached += valid[j] & (values[j] >= threshold);
    }
  }
  double mean() const { return sum / static_cast<double>(count); }
};

// Entries of [begin, end) that are at least (strictly: above) `value`.
template <bool kStrict, typename T>
int32_t count_ahead(const T* values, int64_t begin, int64_t end, T value) {
  int32_t count = 0;
  for (int64_t j = begin; j < end; ++j) {
    count += kStrict ? values[j] > value : values[j] >= value;
  }
  return count;
}

// One row. `first` is the column of the row's first positive. A tie between a positive and a
// negative goes to the negative, one between positives to the lower column. `ranked` is scratch.
template <typename T>
Score score_row(const T* similarity, const bool* valid, int64_t candidates, int64_t first,
                int64_t size, double threshold, std::vector<T>& ranked) {
  const int64_t last = first + size;
  Tally positive, negative;
  positive.add(similarity, valid, first, last, threshold);
  negative.add(similarity, valid, 0, first, threshold);
  negative.add(similarity, valid, last, candidates, threshold);
  if (positive.count == 0 || negative.count == 0) return {};

  // an invalid candidate is ahead of nobody
  for (int64_t j = 0; j < candidates; ++j) {
    ranked[j] = valid[j] ? similarity[j] : -std::numeric_limits<T>::infinity();
  }
  int64_t in_top = 0;
  for (int64_t p = first; p < last; ++p) {
    if (!valid[p]) continue;
    const T value = ranked[p];
    const int64_t ahead =
        count_ahead<false>(ranked.data(), 0, p, value) +
        count_ahead<true>(ranked.data(), p + 1, last, value) +
        count_ahead<false>(ranked.data(), last, candidates, value);
    in_top += ahead < positive.count;
  }
  const double right_of_negatives =
      static_cast<double>(negative.count - negative.reached) / static_cast<double>(negative.count);
  const double right_of_positives =
      static_cast<double>(positive.reached) / static_cast<double>(positive.count);
  return {static_cast<double>(in_top) / static_cast<double>(positive.count),
          positive.mean() - negative.mean(), (right_of_positives + right_of_negatives) / 2};
}

template <typename T>
std::tuple<Tensor, Tensor, Tensor> scores(const Tensor& similarity, const bool* row_valid,
                                          const bool* candidate_valid, const Tensor& threshold,
                                          int64_t size, int64_t first_group) {
  const int64_t rows = similarity.size(0), candidates = similarity.size(1);
  const double limit = scalar_value<T>(threshold, "threshold", dtype_of<T>());
  Tensor rank = new_tensor(similarity, {rows}, dtype_of<T>());
  Tensor gap = new_tensor(similarity, {rows}, dtype_of<T>());
  Tensor share = new_tensor(similarity, {rows}, dtype_of<T>());
  const T* data = similarity.const_data_ptr<T>();
  T* rank_data = rank.mutable_data_ptr<T>();
  T* gap_data = gap.mutable_data_ptr<T>();
  T* share_data = share.mutable_data_ptr<T>();

  torch::stable::parallel_for(
      0, rows, row_grain(candidates * (size + 1)), [&](int64_t begin, int64_t end) {
        std::vector<T> ranked(candidates);
        for (int64_t i = begin; i < end; ++i) {
          Score score;
          if (row_valid[i]) {
            const int64_t first = (i / size + first_group) * size;
            score = score_row(data + i * candidates, candidate_valid, candidates, first, size,
                              limit, ranked);
          }
          rank_data[i] = static_cast<T>(score.rank);
          gap_data[i] = static_cast<T>(score.gap);
          share_data[i] = static_cast<T>(score.share);
        }
      });
  return {rank, gap, share};
}

std::tuple<Tensor, Tensor, Tensor> group_reward_scores(const Tensor& similarity,
                                                       const Tensor& row_valid,
                                                       const Tensor& candidate_valid,
                                                       const Tensor& threshold, int64_t group_size,
                                                       int64_t first_group) {
  STD_TORCH_CHECK(similarity.dim() == 2, "similarity has ", similarity.dim(), " dimensions, not 2");
  const int64_t rows = similarity.size(0), candidates = similarity.size(1);
  STD_TORCH_CHECK(group_size >= 1 && rows % group_size == 0, "group_size ", group_size,
                  " does not divide the ", rows, " rows of similarity");
  STD_TORCH_CHECK(first_group >= 0 && first_group * group_size + rows <= candidates, "first_group ",
                  first_group, " leaves no positives for all ", rows, " rows among ", candidates,
                  " candidates");
  const Tensor data = torch::stable::contiguous(similarity);
  const Tensor row_flags = vector_of(row_valid, "row_valid", ScalarType::Bool, rows);
  const Tensor flags = vector_of(candidate_valid, "candidate_valid", ScalarType::Bool, candidates);
  const bool* row_flag = row_flags.const_data_ptr<bool>();
  const bool* flag = flags.const_data_ptr<bool>();
  if (data.scalar_type() == ScalarType::Double) {
    return scores<double>(data, row_flag, flag, threshold, group_size, first_group);
  }
  check_dtype(data, "similarity (float32 or float64)", ScalarType::Float);
  return scores<float>(data, row_flag, flag, threshold, group_size, first_group);
}

}  // namespace
}  // namespace umer1

STABLE_TORCH_LIBRARY_IMPL(umer1_kernels, CPU, m) {
  m.impl("group_reward_scores", TORCH_BOX(&umer1::group_reward_scores));
}
