// A block of a CUDA kernel on the CPU: its workers run one after the other, in any order; what
// follows `each` starts when all are done, as after a barrier.

#pragma once

#include <algorithm>
#include <numeric>
#include <random>
#include <vector>

namespace umer1::emulation {

// 0 ... count - 1, shuffled.
inline std::vector<int> shuffled(int count, std::mt19937& random) {
  std::vector<int> order(count);
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), random);
  return order;
}

class HostBlock {
 public:
  HostBlock(int id, int all, int workers, unsigned seed)
      : id_(id), all_(all), workers_(workers), random_(seed) {}

  int id() const { return id_; }
  int all() const { return all_; }

  template <class Function>
  void each(const Function& function) const {
    for (int worker : shuffled(workers_, random_)) function(worker);
  }

  template <class Function>
  int maximum(const Function& function) const {
    return fold<int>(function, [](int one, int other) { return std::max(one, other); });
  }

  template <class Function>
  double sum(const Function& function) const {
    return fold<double>(function, [](double one, double other) { return one + other; });
  }

 private:
  // In the order of csrc/cuda/block.cuh: lanes of 32 pairwise, then the warps.
  template <typename T, class Function, class Combine>
  T fold(const Function& function, const Combine& combine) const {
    std::vector<T> values(workers_);
    each([&](int worker) { values[worker] = function(worker); });
    for (int mask = 16; mask > 0; mask /= 2) {
      std::vector<T> next(workers_);
      for (int w = 0; w < workers_; ++w) next[w] = combine(values[w], values[w ^ mask]);
      values = next;
    }
    T result = values[0];
    for (int warp = 32; warp < workers_; warp += 32) result = combine(result, values[warp]);
    return result;
  }

  int id_, all_, workers_;
  mutable std::mt19937 random_;
};

}  // namespace umer1::emulation
