// Rewards and advantages of rollouts in groups, both sides in one call.
//
// Legend: R rows of a side, C candidates (rows of the other side, of all processes), G rollouts per
// pair, N = R / G pairs. The positives of row i are the G candidates of its own pair.

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <optional>
#include <tuple>
#include <vector>

#include "common/tensor.h"

#include <torch/csrc/stable/library.h>

namespace umer1 {
namespace {

constexpr double kFixedThreshold = 0.5;     // rollout_groups.FIXED_THRESHOLD
constexpr double kDeviationEpsilon = 1e-4;  // as in the released code

// The order of umer1_kernels.rollout_groups.KINDS.
enum Kind : int64_t { kRankGap, kRank, kGap, kThreshold, kAdaptiveThreshold, kKinds };

struct Score {
  double rank = 0.0, gap = 0.0, share = 0.0;

  double reward(int64_t kind) const {
    if (kind == kRankGap) return rank * gap;
    return kind == kRank ? rank : kind == kGap ? gap : share;
  }
};

// Running mean similarity and how many reach the threshold, in lanes that add up independently.
struct Tally {
  static constexpr int kLanes = 8;
  double sums[kLanes] = {};
  int64_t count = 0, reached = 0;

  template <typename T>
  void add(const T* values, const bool* valid, int64_t begin, int64_t end, double threshold) {
    const T limit = static_cast<T>(threshold);
    int64_t j = begin;
    for (; j + kLanes <= end; j += kLanes) {
      int32_t counted = 0, above = 0;
      for (int lane = 0; lane < kLanes; ++lane) {
        sums[lane] += valid[j + lane] ? static_cast<double>(values[j + lane]) : 0.0;
        counted += valid[j + lane];
        above += valid[j + lane] & (values[j + lane] >= limit);
      }
      count += counted;
      reached += above;
    }
    for (; j < end; ++j) {
      sums[0] += valid[j] ? static_cast<double>(values[j]) : 0.0;
      count += valid[j];
      reached += valid[j] & (values[j] >= limit);
    }
  }
  double mean() const {
    double sum = 0.0;
    for (double lane : sums) sum += lane;
    return sum / static_cast<double>(count);
  }
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

// A group's rewards -> (reward - mean) / (unbiased deviation + epsilon); 0 in a group of one.
template <typename T>
void advantages(const T* reward, int64_t size, T* advantage) {
  if (size == 1) {
    advantage[0] = 0;
    return;
  }
  double sum = 0.0, squares = 0.0;
  for (int64_t i = 0; i < size; ++i) sum += reward[i];
  const double mean = sum / static_cast<double>(size);
  for (int64_t i = 0; i < size; ++i) squares += (reward[i] - mean) * (reward[i] - mean);
  const double deviation = std::sqrt(squares / static_cast<double>(size - 1));
  for (int64_t i = 0; i < size; ++i) {
    advantage[i] = static_cast<T>((reward[i] - mean) / (deviation + kDeviationEpsilon));
  }
}

// One side's similarities, and which of its rows and of its candidates count.
struct Side {
  Tensor similarity;  // [R, C], contiguous
  std::optional<Tensor> row_valid, candidate_valid;

  Side(const Tensor& values, const std::optional<Tensor>& rows,
       const std::optional<Tensor>& candidates)
      : similarity(torch::stable::contiguous(values)),
        row_valid(flags(rows, "row_valid", values.size(0))),
        candidate_valid(flags(candidates, "candidate_valid", values.size(1))) {}

  static std::optional<Tensor> flags(const std::optional<Tensor>& valid, const char* name,
                                     int64_t length) {
    if (!valid.has_value()) return std::nullopt;
    return vector_of(*valid, name, ScalarType::Bool, length);
  }
};

std::unique_ptr<bool[]> all_true(int64_t count) {
  std::unique_ptr<bool[]> flags(new bool[count]);
  std::fill_n(flags.get(), count, true);
  return flags;
}

const bool* flags_or(const std::optional<Tensor>& flags, const bool* otherwise) {
  return flags.has_value() ? flags->const_data_ptr<bool>() : otherwise;
}

using Rewards = std::tuple<Tensor, Tensor, Tensor, Tensor>;

template <typename T>
Rewards rewards(const Side (&sides)[2], const std::optional<Tensor>& threshold, int64_t size,
                int64_t first_group, int64_t kind) {
  const Tensor& like = sides[0].similarity;
  const int64_t rows = like.size(0), candidates = like.size(1), pairs = rows / size;
  const double limit = threshold.has_value()
                           ? scalar_value<T>(*threshold, "threshold", dtype_of<T>())
                           : kFixedThreshold;
  const std::unique_ptr<bool[]> all = all_true(std::max(rows, candidates));
  Tensor results[4];  // reward, advantage, rank, gap
  T* data[4];
  for (int i = 0; i < 4; ++i) {
    results[i] = new_tensor(like, {2, pairs, size}, dtype_of<T>());
    data[i] = results[i].mutable_data_ptr<T>();
  }

  // a task is a group of one side
  torch::stable::parallel_for(
      0, 2 * pairs, row_grain(candidates * (size + 1) * size), [&](int64_t begin, int64_t end) {
        std::vector<T> ranked(candidates);
        for (int64_t group = begin; group < end; ++group) {
          const Side& side = sides[group / pairs];
          const int64_t pair = group % pairs;
          const T* similarity = side.similarity.const_data_ptr<T>();
          const bool* row_valid = flags_or(side.row_valid, all.get());
          const bool* candidate_valid = flags_or(side.candidate_valid, all.get());
          for (int64_t i = 0; i < size; ++i) {
            const int64_t row = pair * size + i, out = group * size + i;
            Score score;
            if (row_valid[row]) {
              score = score_row(similarity + row * candidates, candidate_valid, candidates,
                                (pair + first_group) * size, size, limit, ranked);
            }
            data[0][out] = static_cast<T>(score.reward(kind));
            data[2][out] = static_cast<T>(score.rank);
            data[3][out] = static_cast<T>(score.gap);
          }
          advantages(data[0] + group * size, size, data[1] + group * size);
        }
      });
  return {results[0], results[1], results[2], results[3]};
}

Rewards group_reward(const Tensor& of_query, const Tensor& of_target,
                     const std::optional<Tensor>& query_valid,
                     const std::optional<Tensor>& target_valid,
                     const std::optional<Tensor>& all_query_valid,
                     const std::optional<Tensor>& all_target_valid,
                     const std::optional<Tensor>& threshold, int64_t group_size,
                     int64_t first_group, int64_t kind) {
  STD_TORCH_CHECK(of_query.dim() == 2, "of_query has ", of_query.dim(), " dimensions, not 2");
  const int64_t rows = of_query.size(0), candidates = of_query.size(1);
  check_shape(of_target, "of_target", {rows, candidates});
  STD_TORCH_CHECK(group_size >= 1 && rows % group_size == 0, "group_size ", group_size,
                  " does not divide the ", rows, " rows of similarity");
  STD_TORCH_CHECK(first_group >= 0 && first_group * group_size + rows <= candidates, "first_group ",
                  first_group, " leaves no positives for all ", rows, " rows among ", candidates,
                  " candidates");
  STD_TORCH_CHECK(kind >= 0 && kind < kKinds, "kind is ", kind, ", not in [0, ", int{kKinds}, ")");
  const Side sides[2] = {{of_query, query_valid, all_target_valid},
                         {of_target, target_valid, all_query_valid}};
  if (of_query.scalar_type() == ScalarType::Double) {
    check_dtype(of_target, "of_target (float64, as of_query)", ScalarType::Double);
    return rewards<double>(sides, threshold, group_size, first_group, kind);
  }
  check_dtype(of_query, "of_query (float32 or float64)", ScalarType::Float);
  check_dtype(of_target, "of_target (float32, as of_query)", ScalarType::Float);
  return rewards<float>(sides, threshold, group_size, first_group, kind);
}

}  // namespace
}  // namespace umer1

STABLE_TORCH_LIBRARY_IMPL(umer1_kernels, CPU, m) {
  m.impl("group_reward", TORCH_BOX(&umer1::group_reward));
}
