// Writes the keys and values of this step's tokens to their pages.

#include <cstring>

#include "cpu/decode_arguments.h"

#include <torch/csrc/stable/library.h>

namespace umer1 {
namespace {

// Writes token t's key and value [Hkv, D] to place position[t] of row table_row[t] (default t).
void append_kv_(const Tensor& key, const Tensor& value, Tensor key_pages, Tensor value_pages,
                const Tensor& table, const Tensor& position, const std::optional<Tensor>& table_row) {
  check_pages(key_pages, "key_pages");
  check_pages(value_pages, "value_pages");
  STD_TORCH_CHECK(key.dim() == 3 && table.dim() == 2, "key must have 3 dimensions, table 2");
  const int64_t tokens = key.size(0), heads = key_pages.size(1), length = key_pages.size(2),
                size = key_pages.size(3), width = table.size(1);
  check_shape(key, "key", {tokens, heads, size});
  check_shape(value, "value", {tokens, heads, size});
  const ScalarType dtype = key_pages.scalar_type();
  check_dtype(key, "key (that of key_pages is wanted)", dtype);
  check_dtype(value, "value (that of key_pages is wanted)", dtype);
  check_dtype(value_pages, "value_pages (that of key_pages is wanted)", dtype);
  const Tensor entries = int32_tensor(table, "table", {table.size(0), width});
  const Tensor positions = int32_tensor(position, "position", {tokens});
  const Tensor rows = int32_tensor(table_row.value_or(position), "table_row", {tokens});
  const Tensor sources[] = {torch::stable::contiguous(key), torch::stable::contiguous(value)};
  Tensor* targets[] = {&key_pages, &value_pages};
  const int64_t bytes = size * key.element_size();
  for (int64_t t = 0; t < tokens; ++t) {
    const int64_t place = positions.const_data_ptr<int32_t>()[t];
    if (place < 0) continue;
    const int64_t row = table_row.has_value() ? rows.const_data_ptr<int32_t>()[t] : t;
    STD_TORCH_CHECK(row >= 0 && row < table.size(0), "table_row holds ", row,
                    "; it must be in [0, ", table.size(0), ")");
    STD_TORCH_CHECK(place < width * length, "position holds ", place, "; it must be below ",
                    width * length, " for ", width, " pages of ", length);
    const int64_t page = entries.const_data_ptr<int32_t>()[row * width + place / length];
    STD_TORCH_CHECK(page >= 0 && page < key_pages.size(0), "table holds ", page,
                    "; it must be in [0, ", key_pages.size(0), ")");
    for (int side = 0; side < 2; ++side) {
      const char* from = static_cast<const char*>(sources[side].data_ptr()) + t * heads * bytes;
      char* to = static_cast<char*>(targets[side]->data_ptr()) +
                 page * targets[side]->stride(0) * key.element_size() + place % length * bytes;
      for (int64_t head = 0; head < heads; ++head) {
        std::memcpy(to + head * length * bytes, from + head * bytes, bytes);
      }
    }
  }
}

}  // namespace
}  // namespace umer1

STABLE_TORCH_LIBRARY_IMPL(umer1_kernels, CPU, m) {
  m.impl("append_kv_", TORCH_BOX(&umer1::append_kv_));
}
