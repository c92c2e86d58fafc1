// Attention of packed sequences, each to itself, without gradients: bfloat16 products with float32 sums.
// AVX512-BF16 only; `bf16_softmax_available` says so at run time.
//
// A block of query rows meets the keys in chunks of fixed places; the sums are scaled down whenever a
// chunk brings a larger score. So what a row gets depends on its own sequence alone.
//
// Legend: T packed tokens, Hq query heads, Hkv key-value heads, D head size.

#include <atomic>
#include <cmath>
#include <vector>

#include "common/tensor.h"
#include "cpu/decode_bf16.h"

#include <torch/csrc/stable/library.h>

namespace umer1 {
namespace {

#if defined(__x86_64__)
constexpr int64_t kBlock = 48;   // query rows whose scores are in memory
constexpr int64_t kChunk = 256;  // keys of a chunk: a multiple of the panels' 64
constexpr int64_t kTaskRows = 384;  // query rows, about: the keys are packed once for them

struct Strided {
  const Bits* data;
  int64_t token, head;  // strides

  explicit Strided(const Tensor& tensor)
      : data(static_cast<const Bits*>(tensor.data_ptr())),
        token(tensor.stride(0)),
        head(tensor.stride(1)) {}

  const Bits* at(int64_t t, int64_t h) const { return data + t * token + h * head; }
};

struct Problem {
  Strided query, key, value;
  int64_t query_heads, group, size;  // group: query heads per key-value head
  bool causal;
  float scale;
  Bits* out;  // [T, Hq, D]
};

// Query tokens first to last of one sequence, for the query heads of one key-value head.
struct Task {
  int64_t begin, length;  // of the sequence
  int64_t first, last, head;
};

// ROWS rows of weights against one panel of values, of which 16 * PARTS columns count.
template <int ROWS, int PARTS>
UMER1_BF16_TARGET inline void weigh_values(const Bits* weights, int64_t stride, int64_t pair_count,
                                           const Bits* packed, const float* factor, float* sums,
                                           int64_t sums_stride) {
  __m512 found[ROWS][PARTS];
  for (int i = 0; i < ROWS; ++i) {
    for (int k = 0; k < PARTS; ++k) found[i][k] = _mm512_setzero_ps();
  }
  for (int64_t pair = 0; pair < pair_count; ++pair) {
    __m512bh columns[PARTS];
#pragma GCC unroll 4
    for (int k = 0; k < PARTS; ++k) {
      columns[k] = (__m512bh)_mm512_loadu_si512(packed + pair * bf16::kPanel * 2 + k * 32);
    }
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; ++i) {
      int32_t values;
      std::memcpy(&values, weights + i * stride + pair * 2, 4);
      const __m512bh row = (__m512bh)_mm512_set1_epi32(values);
#pragma GCC unroll 4
      for (int k = 0; k < PARTS; ++k) found[i][k] = _mm512_dpbf16_ps(found[i][k], row, columns[k]);
    }
  }
  for (int i = 0; i < ROWS; ++i) {
    const __m512 down = _mm512_set1_ps(factor[i]);
    for (int k = 0; k < PARTS; ++k) {
      float* place = sums + i * sums_stride + k * 16;
      _mm512_storeu_ps(place, _mm512_fmadd_ps(_mm512_loadu_ps(place), down, found[i][k]));
    }
  }
}

template <int PARTS>
UMER1_BF16_TARGET inline void add_values(const Bits* weights, int64_t stride, int64_t rows,
                                         int64_t pair_count, const Bits* packed,
                                         const float* factor, float* sums, int64_t sums_stride) {
  int64_t i = 0;
  for (; i + 6 <= rows; i += 6) {
    weigh_values<6, PARTS>(weights + i * stride, stride, pair_count, packed, factor + i,
                           sums + i * sums_stride, sums_stride);
  }
  for (; i < rows; ++i) {
    weigh_values<1, PARTS>(weights + i * stride, stride, pair_count, packed, factor + i,
                           sums + i * sums_stride, sums_stride);
  }
}

// One thread's memory, and a task's work.
class Worker {
 public:
  Worker(const Problem& problem, int64_t most_keys)
      : problem_(problem),
        stride_(bf16::panels(problem.size) * bf16::kPanel),
        chunk_values_(bf16::panels(problem.size) * bf16::panel_size(kChunk)),
        keys_(memory<Bits>(bf16::panels(most_keys) * bf16::panel_size(problem.size))),
        values_(memory<Bits>((most_keys + kChunk - 1) / kChunk * chunk_values_)),
        weights_(memory<Bits>(kBlock * kChunk)),
        scores_(memory<float>(kBlock * kChunk)),
        sums_(memory<float>(kBlock * stride_)) {}

  UMER1_BF16_TARGET void operator()(const Task& task) {
    pack(task, problem_.causal ? task.last : task.length);
    for (int64_t h = task.head * problem_.group; h < (task.head + 1) * problem_.group; ++h) {
      for (int64_t t = task.first; t < task.last; t += kBlock) {
        attend(task, h, t, std::min(task.last, t + kBlock));
      }
    }
  }

 private:
  UMER1_BF16_TARGET void pack(const Task& task, int64_t count) {
    const int64_t size = problem_.size;
    for (int64_t n = 0; n < count; n += bf16::kPanel) {
      bf16::pack_panel(problem_.key.at(task.begin + n, task.head), problem_.key.token,
                       std::min<int64_t>(bf16::kPanel, count - n), size,
                       keys_.get() + n / bf16::kPanel * bf16::panel_size(size));
    }
    const Bits* rows[kChunk];
    for (int64_t n = 0; n < count; n += kChunk) {
      const int64_t here = std::min(kChunk, count - n);
      for (int64_t j = 0; j < here; ++j) rows[j] = problem_.value.at(task.begin + n + j, task.head);
      // a chunk that is not full keeps the places of a full one: missing values weigh nothing
      for (int64_t j = here; j < kChunk; ++j) rows[j] = rows[0];
      pack_values(rows, kChunk, size, values_.get() + n / kChunk * chunk_values_);
    }
  }

  // Query tokens `first` to `last` of the sequence, one head.
  UMER1_BF16_TARGET void attend(const Task& task, int64_t head, int64_t first, int64_t last) {
    const int64_t size = problem_.size, rows = last - first;
    const int64_t count = problem_.causal ? last : task.length;
    float best[kBlock], total[kBlock], factor[kBlock];
    std::fill_n(best, rows, -kInfinity<float>);
    std::fill_n(total, rows, 0.0f);
    std::fill_n(sums_.get(), rows * stride_, 0.0f);
    for (int64_t n = 0; n < count; n += kChunk) {
      const int64_t here = std::min(kChunk, count - n);
      bf16::multiply(problem_.query.at(task.begin + first, head), problem_.query.token, rows, size,
                     keys_.get() + n / bf16::kPanel * bf16::panel_size(size), bf16::panels(here),
                     scores_.get(), kChunk);
      for (int64_t i = 0; i < rows; ++i) {
        const int64_t seen = problem_.causal ? first + i + 1 - n : here;
        factor[i] = weigh(scores_.get() + i * kChunk, std::clamp<int64_t>(seen, 0, here), here,
                          weights_.get() + i * kChunk, best[i], total[i]);
      }
      add_chunk(rows, (here + 1) / 2, values_.get() + n / kChunk * chunk_values_, factor);
    }
    for (int64_t i = 0; i < rows; ++i) {
      Bits* out = problem_.out + ((task.begin + first + i) * problem_.query_heads + head) * size;
      const __m512 share = _mm512_set1_ps(1.0f / total[i]);
      for (int64_t d = 0; d < size; d += 16) {
        const __m512 mean = _mm512_mul_ps(_mm512_loadu_ps(sums_.get() + i * stride_ + d), share);
        const int64_t left = size - d;
        const __mmask16 mask = left >= 16 ? __mmask16(0xffff) : __mmask16((1 << left) - 1);
        _mm256_mask_storeu_epi16(out + d, mask, (__m256i)_mm512_cvtneps_pbh(mean));
      }
    }
  }

  // Scores of a chunk, of which the first `seen` count -> weights [count]; the factor for what was
  // summed before.
  UMER1_BF16_TARGET float weigh(const float* scores, int64_t seen, int64_t count, Bits* weights,
                                float& best, float& total) const {
    if (seen <= 0) {
      std::memset(weights, 0, (count + 1) / 2 * 2 * sizeof(Bits));
      return 1.0f;
    }
    const Lanes nothing = Lanes{} - kInfinity<float>;
    Lanes bests = nothing;
    for (int64_t j = 0; j < seen; j += kLanes) {
      const LaneMask inside = kLaneIndex < (int32_t)std::min<int64_t>(kLanes, seen - j);
      const Lanes score = inside ? bf16_lanes::load(scores + j, kLanes) : nothing;
      bests = score > bests ? score : bests;
    }
    const float before = best;
    best = std::max(best, _mm512_reduce_max_ps((__m512)bests));
    const Lanes down = Lanes{} + problem_.scale, top = Lanes{} + best;
    Lanes sum = {};
    for (int64_t j = 0; j < count; j += kLanes) {
      const LaneMask inside = kLaneIndex < (int32_t)std::clamp<int64_t>(seen - j, 0, kLanes);
      const Lanes weight =
          inside ? bf16_lanes::exp_lanes((bf16_lanes::load(scores + j, kLanes) - top) * down) : Lanes{};
      const __m256i kept = (__m256i)_mm512_cvtneps_pbh((__m512)weight);
      _mm256_storeu_si256((__m256i*)(weights + j), kept);
      sum += (Lanes)_mm512_slli_epi32(_mm512_cvtepu16_epi32(kept), 16);
    }
    const float factor = std::exp((before - best) * problem_.scale);
    total = total * factor + _mm512_reduce_add_ps((__m512)sum);
    return factor;
  }

  UMER1_BF16_TARGET void add_chunk(int64_t rows, int64_t pair_count, const Bits* packed,
                                   const float* factor) {
    for (int64_t d = 0; d < problem_.size; d += bf16::kPanel) {
      const Bits* panel = packed + d / bf16::kPanel * bf16::panel_size(kChunk);
      const auto add = [&](auto parts) UMER1_BF16_TARGET {
        add_values<decltype(parts)::value>(weights_.get(), kChunk, rows, pair_count, panel, factor,
                                           sums_.get() + d, stride_);
      };
      switch (std::min<int64_t>(4, (problem_.size - d + 15) / 16)) {
        case 1: add(std::integral_constant<int, 1>()); break;
        case 2: add(std::integral_constant<int, 2>()); break;
        case 3: add(std::integral_constant<int, 3>()); break;
        default: add(std::integral_constant<int, 4>());
      }
    }
  }

  const Problem& problem_;
  int64_t stride_, chunk_values_;
  Memory<Bits> keys_, values_, weights_;
  Memory<float> scores_, sums_;
};

std::vector<Task> tasks_of(const Tensor& ends, int64_t heads, int64_t group, int64_t tokens) {
  const int32_t* end = ends.const_data_ptr<int32_t>();
  const int64_t step = std::max(kBlock, kTaskRows / group / kBlock * kBlock);
  std::vector<Task> tasks;
  int64_t begin = 0;
  STD_TORCH_CHECK(end[0] == 0, "cu_seqlens begins with ", end[0], ", not 0");
  for (int64_t b = 1; b < ends.size(0); ++b) {
    const int64_t length = end[b] - begin;
    STD_TORCH_CHECK(length > 0, "cu_seqlens: sequence ", b - 1, " has ", length, " tokens");
    for (int64_t head = 0; head < heads; ++head) {
      for (int64_t first = 0; first < length; first += step) {
        tasks.push_back({begin, length, first, std::min(length, first + step), head});
      }
    }
    begin = end[b];
  }
  STD_TORCH_CHECK(begin == tokens, "cu_seqlens ends with ", begin, ", not ", tokens);
  return tasks;
}
#endif

// Rows and heads may be strided; the numbers of a head lie side by side.
Tensor with_dense_heads(const Tensor& tensor, const char* name, int64_t tokens, int64_t size) {
  STD_TORCH_CHECK(tensor.dim() == 3, name, " has ", tensor.dim(), " dimensions, not 3");
  check_shape(tensor, name, {tokens, tensor.size(1), size});
  check_dtype(tensor, name, ScalarType::BFloat16);
  return tensor.stride(2) == 1 ? tensor : torch::stable::contiguous(tensor);
}

Tensor packed_attention(const Tensor& query, const Tensor& key, const Tensor& value,
                        const Tensor& cu_seqlens, bool causal, double scale) {
  STD_TORCH_CHECK(bf16::available(), "this processor has no AVX512-BF16");
  STD_TORCH_CHECK(query.dim() == 3, "query has ", query.dim(), " dimensions, not 3");
  const int64_t tokens = query.size(0), query_heads = query.size(1), size = query.size(2);
  const Tensor queries = with_dense_heads(query, "query", tokens, size);
  const Tensor keys = with_dense_heads(key, "key", tokens, size);
  const Tensor values = with_dense_heads(value, "value", tokens, size);
  const int64_t heads = keys.size(1);
  STD_TORCH_CHECK(heads > 0 && values.size(1) == heads && query_heads % heads == 0,
                  "query has ", query_heads, " heads, key ", heads, ", value ", values.size(1));
  STD_TORCH_CHECK(cu_seqlens.dim() == 1 && cu_seqlens.size(0) >= 2, "cu_seqlens must be [B + 1]");
  check_dtype(cu_seqlens, "cu_seqlens (int32 is wanted)", ScalarType::Int);
  const Tensor ends = torch::stable::contiguous(cu_seqlens);
  Tensor result = new_tensor(query, {tokens, query_heads, size}, ScalarType::BFloat16);
#if defined(__x86_64__)
  const int64_t group = query_heads / heads;
  const std::vector<Task> tasks = tasks_of(ends, heads, group, tokens);
  int64_t longest = 0;
  for (const Task& task : tasks) longest = std::max(longest, task.length);
  const Problem problem{Strided(queries), Strided(keys),        Strided(values),
                        query_heads,      group,                size,
                        causal,           static_cast<float>(scale), static_cast<Bits*>(result.data_ptr())};
  std::atomic<size_t> next{0};
  // tasks differ in size: a thread takes the next one when it is done with one
  torch::stable::parallel_for(0, torch::stable::get_num_threads(), 1, [&](int64_t, int64_t) {
    size_t number = next.fetch_add(1);
    if (number >= tasks.size()) return;
    Worker worker(problem, longest);
    for (; number < tasks.size(); number = next.fetch_add(1)) worker(tasks[number]);
  });
#endif
  return result;
}

}  // namespace
}  // namespace umer1

STABLE_TORCH_LIBRARY_IMPL(umer1_kernels, CPU, m) {
  m.impl("packed_attention", TORCH_BOX(&umer1::packed_attention));
}
