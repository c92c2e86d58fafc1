// The arithmetic of group_reward for one rollout and one group of rollouts, on the CPU and on CUDA.
//
// Legend: a row is a rollout; S+ its similarities to the counted rollouts of its own pair on the
// other side (K of them), S- those to the counted rollouts of all other pairs.

#pragma once

#include <cmath>
#include <cstdint>

#include "common/host_device.h"

namespace umer1::reward {

constexpr double kDeviationEpsilon = 1e-4;  // as in the released code
constexpr double kFixedThreshold = 0.5;

// As in rollout_groups.KINDS.
enum class Kind : int { kRankGap, kRank, kGap, kThreshold, kAdaptiveThreshold };
constexpr int kKinds = 5;

// S+ or S- of a row.
struct Tally {
  double sum = 0.0;
  int64_t count = 0;
  int64_t reached = 0;  // at or above the threshold

  UMER1_HOST_DEVICE double mean() const { return sum / static_cast<double>(count); }
};

struct Score {
  double rank = 0.0, gap = 0.0, share = 0.0;

  UMER1_HOST_DEVICE double reward(Kind kind) const {
    switch (kind) {
      case Kind::kRankGap:
        return rank * gap;
      case Kind::kRank:
        return rank;
      case Kind::kGap:
        return gap;
      default:
        return share;
    }
  }
};

// `in_top`: how many of S+ are among the K largest of S+ and S-. Zero where S+ or S- is empty.
UMER1_HOST_DEVICE inline Score score_of(const Tally& positive, const Tally& negative,
                                        int64_t in_top) {
  Score score;
  if (positive.count == 0 || negative.count == 0) return score;
  score.rank = static_cast<double>(in_top) / static_cast<double>(positive.count);
  score.gap = positive.mean() - negative.mean();
  const double above = static_cast<double>(positive.reached) / static_cast<double>(positive.count);
  const double below = static_cast<double>(negative.count - negative.reached) /
                       static_cast<double>(negative.count);
  score.share = (above + below) / 2;
  return score;
}

// Mean and unbiased deviation of a group's rewards.
struct Spread {
  double mean = 0.0, deviation = 0.0;
};

template <typename T>
UMER1_HOST_DEVICE Spread spread_of(const T* rewards, int64_t size) {
  Spread spread;
  for (int64_t r = 0; r < size; ++r) spread.mean += static_cast<double>(rewards[r]);
  spread.mean /= static_cast<double>(size);
  if (size == 1) return spread;
  double squares = 0.0;
  for (int64_t r = 0; r < size; ++r) {
    const double centred = static_cast<double>(rewards[r]) - spread.mean;
    squares += centred * centred;
  }
  spread.deviation = std::sqrt(squares / static_cast<double>(size - 1));
  return spread;
}

// 0 in a group of one.
template <typename T>
UMER1_HOST_DEVICE T advantage_of(T reward, const Spread& spread) {
  return static_cast<T>((static_cast<double>(reward) - spread.mean) /
                        (spread.deviation + kDeviationEpsilon));
}

// Half way between the mean of all positive and of all negative similarities; 0 for none.
UMER1_HOST_DEVICE inline float middle_of(const Tally& positive, const Tally& negative) {
  return (static_cast<float>(positive.sum) / static_cast<float>(most<int64_t>(positive.count, 1)) +
          static_cast<float>(negative.sum) / static_cast<float>(most<int64_t>(negative.count, 1))) /
         2;
}

}  // namespace umer1::reward
