// One query per row against paged keys and values: a prefix that rows share, then the row's own suffix.
//
// Parts (decode_arguments.h) are softmaxes of fixed ranges of keys, merged in order: what a row gets
// depends on its own keys alone, not on the rows beside it, their number or the pages' numbers.

#include <atomic>
#include <cmath>
#include <memory>
#include <optional>

#include "cpu/decode_arguments.h"
#include "cpu/decode_bf16.h"
#include "cpu/decode_tile.h"
#include "cpu/lanes.h"

#include <torch/csrc/stable/library.h>
#include <torch/headeronly/util/BFloat16.h>

namespace umer1 {
namespace {

using BFloat16 = torch::headeronly::BFloat16;

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

struct DecodeLanes {
  void (*attend)(const DecodeTile<float>&, float*, float*);
  void (*merge)(const DecodeParts&, int64_t, float, float*);
  void (*widen)(const uint16_t*, int64_t, float*);
};

DecodeLanes lanes_here() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")) {
    return {avx512::attend, avx512::merge, avx512::widen};
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    return {avx2::attend, avx2::merge, avx2::widen};
  }
#endif
  return {portable::attend, portable::merge, portable::widen};
}

// A tile computed by what the processor has, and a thread's memory for it.
template <typename T>
class Attender;

template <>
class Attender<float> {
 public:
  Attender(int64_t size, int64_t most_keys, int64_t)
      : queries_(memory<float>(size * kDecodeRows)),
        scores_(memory<float>(most_keys * kDecodeRows)) {}

  void operator()(const DecodeTile<float>& tile) {
    lanes_.attend(tile, queries_.get(), scores_.get());
  }

 private:
  DecodeLanes lanes_ = lanes_here();
  Memory<float> queries_, scores_;
};

// Without AVX512-BF16: widened to float32 first.
class WideningAttender {
 public:
  WideningAttender(int64_t size, int64_t most_keys, int64_t most_rows)
      : attender_(size, most_keys, most_rows),
        numbers_(memory<float>((most_rows + 2 * most_keys) * size)),
        pointers_(memory<const float*>(most_rows + 2 * most_keys)) {}

  void operator()(const DecodeTile<uint16_t>& tile) {
    const int64_t size = tile.dimension, keys = tile.rows, values = keys + tile.count;
    for (int64_t i = 0; i < values + tile.count; ++i) {
      const uint16_t* bits = i < keys     ? tile.queries[i]
                             : i < values ? tile.keys[i - keys]
                                          : tile.values[i - values];
      lanes_.widen(bits, size, numbers_.get() + i * size);
      pointers_[i] = numbers_.get() + i * size;
    }
    attender_({pointers_.get(), tile.rows, pointers_.get() + keys, pointers_.get() + values,
               tile.count, size, tile.scale, tile.out, tile.best, tile.total, tile.stride});
  }

 private:
  DecodeLanes lanes_ = lanes_here();
  Attender<float> attender_;
  Memory<float> numbers_;
  Memory<const float*> pointers_;
};

template <>
class Attender<uint16_t> {
 public:
  Attender(int64_t size, int64_t most_keys, int64_t most_rows) {
#if defined(__x86_64__)
    if (bf16::available()) {
      fused_.emplace(size, most_keys);
      return;
    }
#endif
    widening_.emplace(size, most_keys, most_rows);
  }

  void operator()(const DecodeTile<uint16_t>& tile) {
#if defined(__x86_64__)
    if (fused_) return attend_bf16(tile, *fused_);
#endif
    (*widening_)(tile);
  }

 private:
#if defined(__x86_64__)
  std::optional<Bf16Scratch> fused_;
#endif
  std::optional<WideningAttender> widening_;
};

template <typename T>
struct Pages {
  const T *keys, *values;
  int64_t key_stride, value_stride;  // from page to page
};

// Parts of all rows: [first_part[row] + part, Hq] of `out` rows, bests and totals.
struct PartsBuffer {
  int64_t stride;
  Memory<float> out, best, total;

  PartsBuffer(int64_t parts, int64_t size)
      : stride(decode_stride(size)),
        out(memory<float>(parts * stride)),
        best(memory<float>(parts)),
        total(memory<float>(parts)) {}
};

// One thread's work on tasks.
template <typename T>
class Worker {
 public:
  Worker(const DecodeWork& work, const T* query, int64_t row_stride, int64_t head_stride,
         const Pages<T>& pages, float scale, PartsBuffer& parts)
      : work_(work),
        query_(query),
        row_stride_(row_stride),
        head_stride_(head_stride),
        pages_(pages),
        scale_(scale),
        parts_(parts),
        most_rows_(std::max(kMostQueryRows, work.group)),
        attend_(work.size, work.most_keys, most_rows_),
        queries_(memory<const T*>(most_rows_)),
        keys_(memory<const T*>(work.most_keys)),
        values_(memory<const T*>(work.most_keys)),
        out_(memory<float>(most_rows_ * parts.stride)),
        best_(memory<float>(most_rows_)),
        total_(memory<float>(most_rows_)) {}

  void operator()(const DecodeTask& task) {
    const int64_t group = work_.group, size = work_.size, length = work_.page_length;
    const int64_t first_head = task.head * group;
    for (int64_t m = 0; m < task.row_count * group; ++m) {
      queries_[m] = query_ + task.rows[m / group] * row_stride_ +
                    (first_head + m % group) * head_stride_;
    }
    for (int64_t n = 0; n < task.count; ++n) {
      const int64_t position = task.begin + n, page = task.pages[position / length];
      const int64_t inside = (task.head * length + position % length) * size;
      keys_[n] = pages_.keys + page * pages_.key_stride + inside;
      values_[n] = pages_.values + page * pages_.value_stride + inside;
    }
    attend_({queries_.get(), task.row_count * group, keys_.get(), values_.get(), task.count, size,
             scale_, out_.get(), best_.get(), total_.get(), parts_.stride});
    for (int64_t i = 0; i < task.row_count; ++i) {
      const int64_t part =
          (work_.first_part[task.rows[i]] + task.part) * work_.query_heads + first_head;
      std::copy_n(out_.get() + i * group * parts_.stride, group * parts_.stride,
                  parts_.out.get() + part * parts_.stride);
      std::copy_n(best_.get() + i * group, group, parts_.best.get() + part);
      std::copy_n(total_.get() + i * group, group, parts_.total.get() + part);
    }
  }

 private:
  const DecodeWork& work_;
  const T* query_;
  int64_t row_stride_, head_stride_;
  Pages<T> pages_;
  float scale_;
  PartsBuffer& parts_;
  int64_t most_rows_;
  Attender<T> attend_;
  Memory<const T*> queries_, keys_, values_;
  Memory<float> out_, best_, total_;
};

float stored(float value, const float*) { return value; }
uint16_t stored(float value, const uint16_t*) { return BFloat16(value).x; }

// T is what is stored: float, or the bits of a bfloat16.
template <typename T>
void run(const DecodeWork& work, const Tensor& query, const Pages<T>& pages, float scale, T* result) {
  PartsBuffer parts(work.parts(), work.size);
  std::atomic<size_t> next{0};
  const T* data = static_cast<const T*>(query.data_ptr());
  // a thread for every 50 microseconds; tasks differ in size, so each takes the next one when done
  const int64_t most = torch::stable::get_num_threads();
  const int64_t threads = std::clamp<int64_t>(work.cost / 25000, 1, most);
  torch::stable::parallel_for(0, threads, 1, [&](int64_t, int64_t) {
    size_t number = next.fetch_add(1);
    if (number >= work.tasks.size()) return;
    Worker<T> worker(work, data, query.stride(0), query.stride(1), pages, scale, parts);
    for (; number < work.tasks.size(); number = next.fetch_add(1)) worker(work.tasks[number]);
  });

  const DecodeLanes lanes = lanes_here();
  const int64_t heads = work.query_heads, grain = row_grain(heads * work.size);
  torch::stable::parallel_for(0, work.rows, grain, [&](int64_t begin, int64_t end) {
    const Memory<float> merged = memory<float>(work.size);
    for (int64_t i = begin * heads; i < end * heads; ++i) {
      const int64_t row = i / heads, first = work.first_part[row] * heads + i % heads;
      lanes.merge({parts.out.get() + first * parts.stride, parts.best.get() + first,
                   parts.total.get() + first, work.first_part[row + 1] - work.first_part[row],
                   heads, parts.stride},
                  work.size, scale, merged.get());
      for (int64_t d = 0; d < work.size; ++d) result[i * work.size + d] = stored(merged[d], result);
    }
  });
}

template <typename T>
void run_on(const DecodeWork& work, const Tensor& query, const Tensor& keys, const Tensor& values,
            float scale, Tensor& result) {
  run<T>(work, query,
         {static_cast<const T*>(keys.data_ptr()), static_cast<const T*>(values.data_ptr()),
          keys.stride(0), values.stride(0)},
         scale, static_cast<T*>(result.data_ptr()));
}

Tensor decode_attention(const Tensor& query, const Tensor& key_pages, const Tensor& value_pages,
                        const Tensor& prefix_table, const Tensor& prefix_length,
                        const Tensor& prefix_of, const Tensor& suffix_table,
                        const Tensor& suffix_length, double scale, int64_t split) {
  STD_TORCH_CHECK(query.dim() == 3, "query has ", query.dim(), " dimensions, not 3");
  check_pages(key_pages, "key_pages");
  check_pages(value_pages, "value_pages");
  for (int64_t d = 0; d < 4; ++d) {
    STD_TORCH_CHECK(key_pages.size(d) == value_pages.size(d),
                    "key_pages and value_pages differ in dimension ", d);
  }
  const ScalarType dtype = query.scalar_type();
  check_dtype(key_pages, "key_pages (the query's is wanted)", dtype);
  check_dtype(value_pages, "value_pages (the query's is wanted)", dtype);
  const DecodeWork work(query, key_pages, prefix_table, prefix_length, prefix_of, suffix_table,
                        suffix_length, split);
  // rows and heads may be strided, but the numbers of a head lie side by side
  const Tensor queries = query.stride(2) == 1 ? query : torch::stable::contiguous(query);
  Tensor result = new_tensor(query, {work.rows, work.query_heads, work.size}, dtype);
  if (dtype == ScalarType::BFloat16) {
    run_on<uint16_t>(work, queries, key_pages, value_pages, scale, result);
  } else {
    check_dtype(query, "query (float32 or bfloat16)", ScalarType::Float);
    run_on<float>(work, queries, key_pages, value_pages, scale, result);
  }
  return result;
}

}  // namespace
}  // namespace umer1

STABLE_TORCH_LIBRARY_IMPL(umer1_kernels, CPU, m) {
  m.impl("decode_attention", TORCH_BOX(&umer1::decode_attention));
}
