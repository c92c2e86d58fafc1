// The next token of one row. Include inside one translation unit, after the passes it is given.
//
// The row is cut into blocks of fixed places. A block is known by its largest logit and its sum of
// exponentials relative to that; the token is found in the block where the cumulative sum passes
// u * total, and only that block is looked at again.

#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

#include "cpu/lanes.h"

namespace umer1 {
namespace {

constexpr int64_t kBlock = 512;  // logits

// See sampler_lanes.inc.
template <typename T>
struct SamplerPasses {
  void (*pool)(const T*, int64_t n, float factor, float* best, float* total);
  void (*exponentials)(const T*, int64_t n, float factor, float best, float* out);
};

struct RowSettings {
  int64_t seed, step;
  float temperature, top_p;  // 0: greedy; 1: all
  int64_t top_k, forced;     // 0: all; -1: none
};

// The splitmix64 finaliser.
inline uint64_t mix(uint64_t value) {
  value += 0x9E3779B97F4A7C15u;
  value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9u;
  value = (value ^ (value >> 27)) * 0x94D049BB133111EBu;
  return value ^ (value >> 31);
}

// In [0, 1), from the row's seed and step alone.
inline double uniform(int64_t seed, int64_t step) {
  const uint64_t state = static_cast<uint64_t>(seed) +
                         (static_cast<uint64_t>(step) + 1) * 0x9E3779B97F4A7C15u;
  return static_cast<double>(mix(state) >> 11) * 0x1p-53;
}

inline float wide(float value) { return value; }
inline float wide(uint16_t bits) {
  const uint32_t word = static_cast<uint32_t>(bits) << 16;
  float value;
  __builtin_memcpy(&value, &word, sizeof(value));
  return value;
}

struct Candidate {
  float logit;
  int64_t token;

  // The likelier one comes first; of equal ones, the lower token.
  bool before(const Candidate& other) const {
    return logit > other.logit || (logit == other.logit && token < other.token);
  }
};

template <typename T>
class RowSampler {
 public:
  RowSampler(const SamplerPasses<T>& passes, int64_t size)
      : passes_(passes),
        size_(size),
        blocks_((size + kBlock - 1) / kBlock),
        best_(blocks_),
        total_(blocks_),
        weight_(blocks_),
        exponentials_(kBlock) {}

  void operator()(const T* logits, const RowSettings& row, int64_t* token, float* logprob) {
    x_ = logits;
    factor_ = row.temperature > 0.0f ? 1.0f / row.temperature : 1.0f;
    pool();
    if (row.forced >= 0) {
      *token = row.forced;
    } else if (row.temperature == 0.0f) {
      *token = likeliest();
    } else {
      const double u = uniform(row.seed, row.step);
      const bool truncated = row.top_p < 1.0f || (row.top_k > 0 && row.top_k < size_);
      *token = truncated ? among_the_likeliest(row, u) : among_all(u);
    }
    *logprob = static_cast<float>(exponent(wide(x_[*token])) - std::log(sum_));
  }

 private:
  int64_t block_size(int64_t block) const { return std::min(kBlock, size_ - block * kBlock); }
  double exponent(float logit) const {
    return (static_cast<double>(logit) - static_cast<double>(largest_)) * factor_;
  }

  void pool() {
    largest_ = -kInfinity<float>;
    for (int64_t b = 0; b < blocks_; ++b) {
      passes_.pool(x_ + b * kBlock, block_size(b), factor_, &best_[b], &total_[b]);
      largest_ = std::max(largest_, best_[b]);
    }
    sum_ = 0.0;
    for (int64_t b = 0; b < blocks_; ++b) {
      weight_[b] = total_[b] > 0.0f ? std::exp(exponent(best_[b])) : 0.0;
      sum_ += weight_[b] * total_[b];
    }
  }

  int64_t likeliest() const {
    int64_t block = 0;
    while (block + 1 < blocks_ && best_[block] != largest_) ++block;
    for (int64_t i = block * kBlock; i < size_; ++i) {
      if (wide(x_[i]) == largest_) return i;
    }
    return 0;  // not a number anywhere
  }

  int64_t among_all(double u) {
    const double threshold = u * sum_;
    double before = 0.0;
    int64_t block = -1;
    for (int64_t b = 0; b < blocks_; ++b) {
      const double mass = weight_[b] * total_[b];
      if (!(mass > 0.0)) continue;
      if (block >= 0) before += weight_[block] * total_[block];
      block = b;
      if (before + mass > threshold) break;
    }
    if (block < 0) return 0;
    passes_.exponentials(x_ + block * kBlock, block_size(block), factor_, best_[block],
                         exponentials_.data());
    int64_t found = likeliest();
    for (int64_t i = 0; i < block_size(block); ++i) {
      if (!(exponentials_[i] > 0.0f)) continue;
      // the last one with a mass stands where sums in another order end below the threshold
      found = block * kBlock + i;
      before += weight_[block] * exponentials_[i];
      if (before > threshold) break;
    }
    return found;
  }

  bool limited(const RowSettings& row) const { return row.top_k > 0 && row.top_k < size_; }
  double mass(const Candidate& c) const { return std::exp(exponent(c.logit)); }

  // Every token that can be kept: the k likeliest are not below the k-th of the blocks' bests; a token
  // whose share is below (1 - p) / V has all of p before it.
  void collect(const RowSettings& row) {
    double bound = -kInfinity<double>;
    if (!limited(row)) {
      const double share = (1.0 - static_cast<double>(row.top_p)) * sum_ / size_;
      bound = largest_ + (std::log(share) - 1e-3) / factor_;
    } else if (row.top_k <= blocks_) {
      std::vector<float> bests(best_);
      std::nth_element(bests.begin(), bests.begin() + (row.top_k - 1), bests.end(),
                       std::greater<float>());
      bound = bests[row.top_k - 1];
    }
    candidates_.clear();
    for (int64_t b = 0; b < blocks_; ++b) {
      if (best_[b] < bound) continue;
      for (int64_t i = b * kBlock; i < b * kBlock + block_size(b); ++i) {
        const float logit = wide(x_[i]);
        if (logit >= bound) candidates_.push_back({logit, i});
      }
    }
  }

  // Keeps the likeliest candidates in order, until there are `count` or their mass is `wanted`.
  double keep(int64_t count, double wanted) {
    const auto behind = [](const Candidate& a, const Candidate& b) { return b.before(a); };
    std::make_heap(candidates_.begin(), candidates_.end(), behind);
    double total = 0.0;
    kept_.clear();
    while (!candidates_.empty() && std::ssize(kept_) < count && total < wanted) {
      std::pop_heap(candidates_.begin(), candidates_.end(), behind);
      kept_.push_back(candidates_.back());
      candidates_.pop_back();
      total += mass(kept_.back());
    }
    return total;
  }

  // Keeps of those the first ones whose mass is `wanted`.
  double shorten(double wanted) {
    double total = 0.0;
    size_t count = 0;
    while (count < kept_.size() && total < wanted) total += mass(kept_[count++]);
    kept_.resize(count);
    return total;
  }

  // Top-k first, then the smallest set of what is left that has top_p of its mass.
  int64_t among_the_likeliest(const RowSettings& row, double u) {
    collect(row);
    const double share = row.top_p;
    double total = limited(row) ? keep(row.top_k, kInfinity<double>) : keep(size_, share * sum_);
    if (limited(row) && share < 1.0) total = shorten(share * total);
    std::sort(kept_.begin(), kept_.end(),
              [](const Candidate& a, const Candidate& b) { return a.token < b.token; });
    double before = 0.0;
    int64_t found = likeliest();
    for (const Candidate& candidate : kept_) {
      const double added = mass(candidate);
      if (!(added > 0.0)) continue;
      found = candidate.token;
      before += added;
      if (before > u * total) break;
    }
    return found;
  }

  SamplerPasses<T> passes_;
  int64_t size_, blocks_;
  const T* x_ = nullptr;
  float factor_ = 1.0f, largest_ = 0.0f;
  double sum_ = 0.0;
  std::vector<float> best_, total_;
  std::vector<double> weight_;
  std::vector<float> exponentials_;
  std::vector<Candidate> candidates_, kept_;
};

}  // namespace
}  // namespace umer1
