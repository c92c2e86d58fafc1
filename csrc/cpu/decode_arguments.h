// The checked arguments of decode_attention, and the work they make.
//
// Legend: B rows, Hq query heads, Hkv key-value heads, D head size, P prefixes. A segment is a row's
// prefix or its suffix; a segment is cut at multiples of `split`, and each (row, query head, cut) is a
// part: a softmax of its own.

#pragma once

#include <vector>

#include "common/tensor.h"
#include "cpu/decode_tile.h"

namespace umer1 {

inline Tensor int32_tensor(const Tensor& tensor, const char* name,
                           const std::vector<int64_t>& shape) {
  check_shape(tensor, name, shape);
  check_dtype(tensor, name, ScalarType::Int);
  return torch::stable::contiguous(tensor);
}

// Key pages and value pages: [pages, Hkv, page_length, D] where only the first stride is free.
inline void check_pages(const Tensor& pages, const char* name) {
  STD_TORCH_CHECK(pages.dim() == 4, name, " has ", pages.dim(), " dimensions, not 4");
  const int64_t length = pages.size(2), size = pages.size(3);
  STD_TORCH_CHECK(pages.stride(3) == 1 && pages.stride(2) == size && pages.stride(1) == length * size,
                  name, " must be contiguous within a page");
}

// Some rows against the keys of one cut, for one key-value head.
struct DecodeTask {
  const int32_t* pages;  // of the segment
  int64_t begin, count;  // its keys
  int64_t head;
  const int32_t* rows;
  int64_t row_count;
  int64_t part;  // the rows' part, counted from their first
};

struct DecodeWork {
  int64_t rows, query_heads, heads, group, size, pages, page_length, split;
  Tensor prefix_table, prefix_length, prefix_of, suffix_table, suffix_length;
  std::vector<int32_t> order;       // rows of one prefix side by side
  std::vector<int64_t> first_part;  // [B + 1], in units of Hq parts
  std::vector<DecodeTask> tasks;
  int64_t most_keys = 0;  // of a task
  int64_t cost = 0;       // of all tasks, in units of about 2 ns

  DecodeWork(const Tensor& query, const Tensor& key_pages, const Tensor& prefix_table_,
             const Tensor& prefix_length_, const Tensor& prefix_of_, const Tensor& suffix_table_,
             const Tensor& suffix_length_, int64_t split_)
      : rows(query.size(0)),
        query_heads(query.size(1)),
        heads(key_pages.size(1)),
        group(heads > 0 ? query_heads / heads : 0),
        size(query.size(2)),
        pages(key_pages.size(0)),
        page_length(key_pages.size(2)),
        split(split_),
        prefix_table(int32_tensor(prefix_table_, "prefix_table", shape_of_table(prefix_table_))),
        prefix_length(int32_tensor(prefix_length_, "prefix_length", {prefix_table.size(0)})),
        prefix_of(int32_tensor(prefix_of_, "prefix_of", {rows})),
        suffix_table(int32_tensor(suffix_table_, "suffix_table", shape_of_table(suffix_table_))),
        suffix_length(int32_tensor(suffix_length_, "suffix_length", {rows})),
        first_part(rows + 1) {
    STD_TORCH_CHECK(group > 0 && query_heads == group * heads, "query has ", query_heads,
                    " heads, no multiple of the ", heads, " of key_pages");
    STD_TORCH_CHECK(key_pages.size(3) == size, "key_pages has head size ", key_pages.size(3),
                    ", query ", size);
    STD_TORCH_CHECK(suffix_table.size(0) == rows, "suffix_table has ", suffix_table.size(0),
                    " rows, query ", rows);
    STD_TORCH_CHECK(split > 0 && page_length > 0, "split and the page length must be positive");
    plan();
  }

  int64_t parts() const { return first_part[rows] * query_heads; }

 private:
  static std::vector<int64_t> shape_of_table(const Tensor& table) {
    STD_TORCH_CHECK(table.dim() == 2, "a page table has ", table.dim(), " dimensions, not 2");
    return {table.size(0), table.size(1)};
  }

  int64_t cuts(int64_t length) const { return (length + split - 1) / split; }

  // Length of this row of the table; its entries name pages.
  int64_t checked_length(const Tensor& table, const char* name, const Tensor& lengths,
                         const char* lengths_name, int64_t row) const {
    const int64_t length = lengths.const_data_ptr<int32_t>()[row], width = table.size(1);
    STD_TORCH_CHECK(length >= 0 && length <= width * page_length, lengths_name, " holds ", length,
                    "; it must be in [0, ", width * page_length, "] for ", width, " pages of ",
                    page_length);
    const int32_t* entries = table.const_data_ptr<int32_t>() + row * width;
    for (int64_t i = 0; i * page_length < length; ++i) {
      STD_TORCH_CHECK(entries[i] >= 0 && entries[i] < pages, name, " holds ", entries[i],
                      "; it must be in [0, ", pages, ")");
    }
    return length;
  }

  void add_tasks(const int32_t* table_row, int64_t length, const int32_t* members, int64_t count,
                 int64_t first_part_of_segment) {
    const int64_t most = std::max<int64_t>(1, kMostQueryRows / group);
    for (int64_t cut = 0; cut < cuts(length); ++cut) {
      const int64_t begin = cut * split, keys = std::min(split, length - begin);
      most_keys = std::max(most_keys, keys);
      for (int64_t head = 0; head < heads; ++head) {
        for (int64_t first = 0; first < count; first += most) {
          // a key is unpacked once, then met by every query row
          cost += keys * (8 + std::min(most, count - first) * group);
          tasks.push_back({table_row, begin, keys, head, members + first,
                           std::min(most, count - first), first_part_of_segment + cut});
        }
      }
    }
  }

  void plan() {
    const int64_t prefixes = prefix_table.size(0);
    const int32_t* of = prefix_of.const_data_ptr<int32_t>();
    std::vector<int64_t> start(prefixes + 1), prefix_keys(prefixes);
    for (int64_t b = 0; b < rows; ++b) {
      STD_TORCH_CHECK(of[b] >= -1 && of[b] < prefixes, "prefix_of holds ", of[b],
                      "; it must be in [-1, ", prefixes, ")");
      if (of[b] >= 0) ++start[of[b] + 1];
    }
    for (int64_t p = 0; p < prefixes; ++p) start[p + 1] += start[p];
    // rows without a prefix behind the others
    order.resize(rows);
    std::vector<int64_t> next(start);
    int64_t loose = start[prefixes];
    for (int64_t b = 0; b < rows; ++b) order[of[b] >= 0 ? next[of[b]]++ : loose++] = b;

    for (int64_t p = 0; p < prefixes; ++p) {
      const int64_t count = start[p + 1] - start[p];
      if (count == 0) continue;
      prefix_keys[p] =
          checked_length(prefix_table, "prefix_table", prefix_length, "prefix_length", p);
      add_tasks(prefix_table.const_data_ptr<int32_t>() + p * prefix_table.size(1), prefix_keys[p],
                order.data() + start[p], count, 0);
    }
    for (int64_t b = 0; b < rows; ++b) {
      first_part[b + 1] = first_part[b] + cuts(of[b] >= 0 ? prefix_keys[of[b]] : 0) +
                          cuts(checked_length(suffix_table, "suffix_table", suffix_length,
                                              "suffix_length", b));
    }
    for (int64_t i = 0; i < rows; ++i) {
      const int64_t b = order[i];
      const int64_t before = of[b] >= 0 ? cuts(prefix_keys[of[b]]) : 0;
      add_tasks(suffix_table.const_data_ptr<int32_t>() + b * suffix_table.size(1),
                suffix_length.const_data_ptr<int32_t>()[b], order.data() + i, 1, before);
    }
  }
};

}  // namespace umer1
