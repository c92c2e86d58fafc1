// A tile of decode attention: some query rows against some keys of one key-value head.

#pragma once

#include <cstdint>
#include <memory>

namespace umer1 {

constexpr int64_t kDecodeRows = 48;      // query rows of a block: eight tokens of six heads
constexpr int64_t kMostQueryRows = 192;  // of a tile, unless one token has more heads

// Memory without contents.
template <typename T>
using Memory = std::unique_ptr<T[]>;

template <typename T>
Memory<T> memory(int64_t count) {
  return std::make_unique_for_overwrite<T[]>(count);
}

// D numbers per query, key and value; rows of `out` are `stride` numbers apart, a multiple of 64.
template <typename T>
struct DecodeTile {
  const T* const* queries;
  int64_t rows;
  const T* const* keys;
  const T* const* values;
  int64_t count;  // keys
  int64_t dimension;
  float scale;
  float* out;    // sums of weight * value, weight = exp(scale (query * key - best))
  float* best;   // the largest query * key
  float* total;  // sums of weight
  int64_t stride;
};

// The parts of one query row: softmaxes over its keys, in order.
struct DecodeParts {
  const float* out;  // part p at out + p * step * stride
  const float* best;
  const float* total;  // part p at p * step
  int64_t count;
  int64_t step;
  int64_t stride;
};

inline int64_t decode_stride(int64_t dimension) { return (dimension + 63) / 64 * 64; }

}  // namespace umer1
