// Decode attention's tile in every instruction set, by plain pointers: the extension only runs the best
// one of the machine it is on.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "cpu/decode_bf16.h"
#include "cpu/decode_tile.h"
#include "cpu/lanes.h"

namespace umer1 {
namespace {

#define UMER1_VARIANT portable
#define UMER1_TARGET
#define UMER1_KEYS 4
#define UMER1_ROWS 2
#define UMER1_PARTS 1
#include "cpu/decode_lanes.inc"
#undef UMER1_VARIANT
#undef UMER1_TARGET
#undef UMER1_PARTS

#if defined(__x86_64__)
#define UMER1_VARIANT avx2
#define UMER1_TARGET __attribute__((target("avx2,fma")))
#define UMER1_PARTS 2
#include "cpu/decode_lanes.inc"
#undef UMER1_VARIANT
#undef UMER1_TARGET
#undef UMER1_KEYS
#undef UMER1_ROWS
#undef UMER1_PARTS

#define UMER1_VARIANT avx512
#define UMER1_TARGET __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")))
#define UMER1_KEYS 8
#define UMER1_ROWS 4
#define UMER1_PARTS 4
#include "cpu/decode_lanes.inc"
#endif

template <typename T>
std::vector<const T*> rows_of(const T* data, int64_t count, int64_t size) {
  std::vector<const T*> rows(count);
  for (int64_t i = 0; i < count; ++i) rows[i] = data + i * size;
  return rows;
}

}  // namespace
}  // namespace umer1

using namespace umer1;

extern "C" {

// 0 portable, 1 avx2, 2 avx512, 3 avx512-bf16: whether this machine runs it.
int runs(int variant) {
#if defined(__x86_64__)
  switch (variant) {
    case 1: return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    case 2: return __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
    case 3: return bf16::available();
  }
#endif
  return variant == 0;
}

// query [rows, size], key and value [count, size] -> out [rows, size], best and total [rows].
void attend_float(int variant, const float* query, int64_t rows, const float* key,
                  const float* value, int64_t count, int64_t size, float scale, float* out,
                  float* best, float* total) {
  const auto queries = rows_of(query, rows, size), keys = rows_of(key, count, size),
             values = rows_of(value, count, size);
  const int64_t stride = decode_stride(size);
  std::vector<float> padded(rows * stride), scratch(size * kDecodeRows),
      scores(count * kDecodeRows);
  const DecodeTile<float> tile{queries.data(), rows,  keys.data(),   values.data(), count,
                               size,           scale, padded.data(), best,          total,
                               stride};
#if defined(__x86_64__)
  if (variant == 1) avx2::attend(tile, scratch.data(), scores.data());
  if (variant == 2) avx512::attend(tile, scratch.data(), scores.data());
#endif
  if (variant == 0) portable::attend(tile, scratch.data(), scores.data());
  for (int64_t i = 0; i < rows; ++i) {
    std::memcpy(out + i * size, padded.data() + i * stride, size * sizeof(float));
  }
}

// The same on the bits of bfloat16 numbers.
void attend_bits(const uint16_t* query, int64_t rows, const uint16_t* key, const uint16_t* value,
                 int64_t count, int64_t size, float scale, float* out, float* best, float* total) {
#if defined(__x86_64__)
  const auto queries = rows_of(query, rows, size), keys = rows_of(key, count, size),
             values = rows_of(value, count, size);
  const int64_t stride = decode_stride(size);
  std::vector<float> padded(rows * stride);
  Bf16Scratch scratch(size, count);
  attend_bf16({queries.data(), rows, keys.data(), values.data(), count, size, scale, padded.data(),
               best, total, stride},
              scratch);
  for (int64_t i = 0; i < rows; ++i) {
    std::memcpy(out + i * size, padded.data() + i * stride, size * sizeof(float));
  }
#endif
}

// `count` parts of one row: out [count, stride], best and total [count] -> result [size].
void merge(int variant, const float* out, const float* best, const float* total, int64_t count,
           int64_t size, int64_t stride, float scale, float* result) {
  const DecodeParts parts{out, best, total, count, 1, stride};
#if defined(__x86_64__)
  if (variant == 1) avx2::merge(parts, size, scale, result);
  if (variant == 2) avx512::merge(parts, size, scale, result);
#endif
  if (variant == 0) portable::merge(parts, size, scale, result);
}

void widen(int variant, const uint16_t* bits, int64_t count, float* out) {
#if defined(__x86_64__)
  if (variant == 1) avx2::widen(bits, count, out);
  if (variant == 2) avx512::widen(bits, count, out);
#endif
  if (variant == 0) portable::widen(bits, count, out);
}
}
