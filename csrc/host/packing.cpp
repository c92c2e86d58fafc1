// umer1._packing: best-fit decreasing for millions of lengths. Python module, no tensors, no torch.
// umer1/training/best_fit.py is the same in Python and says what the rules are; results are equal.

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

namespace py = pybind11;

namespace {

// packs with equal room left, the one that has had it longest at `first`
struct Queue {
  std::vector<int64_t> packs;
  size_t first = 0;
};

struct Packs {
  std::vector<int64_t> pack_of;  // of each item, longest item first
  int64_t opened = 0;
};

// numbers of the items, longest first, equal lengths in their order
std::vector<int64_t> longest_first(const int64_t* lengths, int64_t count) {
  std::vector<int64_t> order(count);
  if (count == 0) return order;
  const auto [shortest, longest] = std::minmax_element(lengths, lengths + count);
  const uint64_t range = static_cast<uint64_t>(*longest) - static_cast<uint64_t>(*shortest);
  if (range <= 4 * static_cast<uint64_t>(count) + 65536) {  // as token counts are: one counting pass
    std::vector<int64_t> next(range + 2, 0);
    for (int64_t item = 0; item < count; ++item) ++next[*longest - lengths[item] + 1];
    std::partial_sum(next.begin(), next.end(), next.begin());
    for (int64_t item = 0; item < count; ++item) order[next[*longest - lengths[item]]++] = item;
  } else {
    std::iota(order.begin(), order.end(), int64_t{0});
    std::stable_sort(order.begin(), order.end(),
                     [&](int64_t left, int64_t right) { return lengths[left] > lengths[right]; });
  }
  return order;
}

Packs place(const int64_t* lengths, const std::vector<int64_t>& order, int64_t capacity) {
  Packs result;
  result.pack_of.reserve(order.size());
  std::map<int64_t, Queue> by_room;
  const int64_t count = static_cast<int64_t>(order.size());
  for (int64_t begin = 0, end = 0; begin < count; begin = end) {
    const int64_t length = lengths[order[begin]];
    for (end = begin; end < count && lengths[order[end]] == length;) ++end;
    for (int64_t left = end - begin; left > 0;) {
      if (length > capacity) {
        result.pack_of.push_back(result.opened++);
        --left;
        continue;
      }
      int64_t room = capacity, pack;
      const auto found = by_room.lower_bound(length);
      if (found == by_room.end()) {
        pack = result.opened++;
      } else {
        room = found->first;
        Queue& queue = found->second;
        pack = queue.packs[queue.first++];
        if (queue.first == queue.packs.size()) by_room.erase(found);
      }
      const int64_t taken = length ? std::min(left, room / length) : left;
      result.pack_of.insert(result.pack_of.end(), taken, pack);
      by_room[room - taken * length].packs.push_back(pack);
      left -= taken;
    }
  }
  return result;
}

py::array_t<int64_t> array_of(const std::vector<int64_t>& values) {
  return py::array_t<int64_t>(static_cast<py::ssize_t>(values.size()), values.data());
}

py::tuple best_fit_decreasing(
    py::array_t<int64_t, py::array::c_style | py::array::forcecast> lengths, int64_t capacity) {
  if (lengths.ndim() != 1) throw std::invalid_argument("lengths: wants one dimension");
  if (capacity < 1) throw std::invalid_argument("capacity: wants at least 1, got " + std::to_string(capacity));
  const int64_t* values = lengths.data();
  const int64_t count = lengths.size();
  std::vector<int64_t> items(count), ends;
  {
    py::gil_scoped_release release;
    if (count && *std::min_element(values, values + count) < 0)
      throw std::invalid_argument("lengths: wants none negative");
    const std::vector<int64_t> order = longest_first(values, count);
    const Packs packs = place(values, order, capacity);
    ends.assign(packs.opened, 0);
    for (const int64_t pack : packs.pack_of) ++ends[pack];
    std::partial_sum(ends.begin(), ends.end(), ends.begin());
    std::vector<int64_t> next(packs.opened, 0);
    if (packs.opened > 1) std::copy(ends.begin(), ends.end() - 1, next.begin() + 1);
    for (int64_t rank = 0; rank < count; ++rank) items[next[packs.pack_of[rank]]++] = order[rank];
  }
  return py::make_tuple(array_of(items), array_of(ends));
}

}  // namespace

PYBIND11_MODULE(_packing, module) {
  module.doc() = "The packing planner of umer1.training.packing, compiled.";
  module.def("best_fit_decreasing", &best_fit_decreasing, py::arg("lengths"), py::arg("capacity"));
}
