// A block of the small dual InfoNCE kernel on the CPU, as csrc/cuda/dual_block.cuh is one on a GPU.
//
// What a GPU leaves open is taken to its ends: either copies to shared memory land as late as they
// may and products are made at once, or copies land at once and products are made as late as they
// may. A schedule that reads too early or overwrites too early gives a wrong result in one of them.

#pragma once

#include <functional>
#include <random>
#include <vector>

#include "common/dual_logits.h"
#include "common/operand_products.h"
#include "tensor_core_model.h"

namespace umer1::emulation {

template <bool kWarpgroups_>
class DualHostBlock {
 public:
  static constexpr bool kWarpgroups = kWarpgroups_;

  DualHostBlock(int id, int all, int shared_bytes, bool late_products, unsigned seed)
      : id_(id),
        all_(all),
        late_products_(late_products),
        random_(seed),
        // what nobody wrote is NaN
        shared_(shared_bytes + 1024, 0xff),
        registers_(dual::kThreads) {
    std::memset(registers_.data(), 0xff, registers_.size() * sizeof(dual::Registers));
    const auto address = reinterpret_cast<uintptr_t>(shared_.data());
    begin_ = shared_.data() + (1024 - address % 1024) % 1024;
    memory_ = {begin_, kSharedBase, static_cast<uint32_t>(shared_bytes)};
  }

  int id() const { return id_; }
  int all() const { return all_; }
  unsigned char* shared() { return begin_; }
  dual::Registers& registers(int thread) { return registers_[thread]; }

  template <class Function>
  void spread(const Function& function) {
    // some order of all threads
    const unsigned first = random_(), step = random_() | 1u;
    for (unsigned k = 0; k < dual::kThreads; ++k) {
      function(static_cast<int>((first + k * step) % dual::kThreads));
    }
  }
  void wait() {
    if (!kWarpgroups) make_products(0);
  }
  template <class Function>
  void each(const Function& function) {
    spread(function);
    wait();
  }

  void copy(int offset, const void* from, bool exists) {
    if (offset < 0 || offset % 16 != 0 || offset + 16 > static_cast<int>(memory_.size)) {
      throw std::out_of_range("a copy beyond shared memory");
    }
    if (reinterpret_cast<uintptr_t>(from) % 16 != 0) throw std::invalid_argument("unaligned copy");
    Copy copy = {offset, {}};
    if (exists) std::memcpy(copy.bytes.data(), from, 16);
    open_.push_back(copy);
  }
  void commit() {
    groups_.push_back(std::move(open_));
    open_.clear();
    if (late_products_) landed(0);
  }
  void landed(int later) {
    while (static_cast<int>(groups_.size()) > later) {
      for (const Copy& copy : groups_.front()) {
        std::memcpy(begin_ + copy.offset, copy.bytes.data(), 16);
      }
      groups_.erase(groups_.begin());
    }
  }

  template <class Shape, dual::Major kLeft, dual::Major kRight>
  void multiply(int left, int right) {
    products_.push_back([this, left, right] {
      if constexpr (kWarpgroups) {
        by_warpgroups<Shape, kLeft, kRight>(kSharedBase + left, kSharedBase + right);
      } else {
        by_warps<Shape, kLeft, kRight>(kSharedBase + left, kSharedBase + right);
      }
    });
    if (!late_products_) make_products(0);
  }
  void finish_previous() {
    if (kWarpgroups) make_products(1);
  }
  template <class Shape>
  void finish() {
    make_products(0);
  }

  void exchange_words() {
    for (int first = 0; first < dual::kThreads; first += 4) {
      for (int one = 0; one < 4; ++one) {
        for (int other = 0; other < one; ++other) {
          std::swap(registers_[first + one].words[other], registers_[first + other].words[one]);
        }
      }
    }
  }

 private:
  struct Copy {
    int offset;
    std::array<unsigned char, 16> bytes;
  };
  // somewhere above 0, so that an offset taken for an address is seen
  static constexpr uint32_t kSharedBase = 0x2400;

  void make_products(size_t left_over) {
    while (products_.size() > left_over) {
      products_.front()();
      products_.erase(products_.begin());
    }
  }

  template <class Shape, dual::Major kLeft, dual::Major kRight>
  void by_warps(uint32_t left, uint32_t right) {
    for (int first = 0; first < dual::kThreads; first += 32) {
      const auto sums_of = [&](int lane) { return registers_[first + lane].sums; };
      WarpModel<decltype(sums_of)> warp = {memory_, sums_of, {}, {}};
      dual::warp_products<Shape, kLeft, kRight>(warp, first, left, right);
    }
  }
  template <class Shape, dual::Major kLeft, dual::Major kRight>
  void by_warpgroups(uint32_t left, uint32_t right) {
    for (int first = 0; first < dual::kThreads; first += 128) {
      const auto sums_of = [&](int thread) { return registers_[first + thread].sums; };
      WarpgroupModel<decltype(sums_of)> warpgroup = {memory_, sums_of};
      const int row = dual::WarpgroupLayout<Shape>::first_row(first);
      dual::warpgroup_products<Shape, kLeft, kRight>(warpgroup, row, left, right);
    }
  }

  int id_, all_;
  bool late_products_;
  std::mt19937 random_;
  std::vector<unsigned char> shared_;
  unsigned char* begin_;
  SharedMemory memory_;
  std::vector<dual::Registers> registers_;
  std::vector<Copy> open_;
  std::vector<std::vector<Copy>> groups_;
  std::vector<std::function<void()>> products_;
};

}  // namespace umer1::emulation
