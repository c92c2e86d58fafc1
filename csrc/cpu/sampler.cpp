// The next token of each row of logits, and its log-probability.
//
// Legend: B rows, V tokens.

#include <tuple>

#include "common/tensor.h"
#include "cpu/sampler_row.h"

#include <torch/csrc/stable/library.h>

namespace umer1 {
namespace {

#define UMER1_VARIANT portable
#define UMER1_TARGET
#include "cpu/sampler_lanes.inc"
#undef UMER1_VARIANT
#undef UMER1_TARGET

#if defined(__x86_64__)
#define UMER1_VARIANT avx2
#define UMER1_TARGET __attribute__((target("avx2,fma")))
#include "cpu/sampler_lanes.inc"
#undef UMER1_VARIANT
#undef UMER1_TARGET

#define UMER1_VARIANT avx512
#define UMER1_TARGET __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")))
#include "cpu/sampler_lanes.inc"
#undef UMER1_VARIANT
#undef UMER1_TARGET
#endif

template <typename T>
SamplerPasses<T> passes_here() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")) {
    return {avx512::pool<T>, avx512::exponentials<T>};
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    return {avx2::pool<T>, avx2::exponentials<T>};
  }
#endif
  return {portable::pool<T>, portable::exponentials<T>};
}

// The settings of all rows, checked.
struct Settings {
  Tensor seed, step, temperature, top_p, top_k, forced;

  Settings(int64_t rows, int64_t size, const Tensor& seed_, const Tensor& step_,
           const Tensor& temperature_, const Tensor& top_p_, const Tensor& top_k_,
           const Tensor& forced_)
      : seed(int64_vector(seed_, "seed", rows)),
        step(int64_vector(step_, "step", rows)),
        temperature(vector_of(temperature_, "temperature", ScalarType::Float, rows)),
        top_p(vector_of(top_p_, "top_p", ScalarType::Float, rows)),
        top_k(int64_vector(top_k_, "top_k", rows)),
        forced(int64_vector(forced_, "forced", rows)) {
    for (int64_t b = 0; b < rows; ++b) {
      const RowSettings row = at(b);
      STD_TORCH_CHECK(row.temperature >= 0.0f, "temperature holds ", row.temperature,
                      "; it must be 0 (greedy) or more");
      STD_TORCH_CHECK(row.top_p > 0.0f && row.top_p <= 1.0f, "top_p holds ", row.top_p,
                      "; it must be in (0, 1]");
      STD_TORCH_CHECK(row.top_k >= 0, "top_k holds ", row.top_k, "; it must be 0 (all) or more");
      STD_TORCH_CHECK(row.forced >= -1 && row.forced < size, "forced holds ", row.forced,
                      "; it must be -1 (none) or one of ", size, " tokens");
    }
  }

  RowSettings at(int64_t row) const {
    return {seed.const_data_ptr<int64_t>()[row],      step.const_data_ptr<int64_t>()[row],
            temperature.const_data_ptr<float>()[row], top_p.const_data_ptr<float>()[row],
            top_k.const_data_ptr<int64_t>()[row],     forced.const_data_ptr<int64_t>()[row]};
  }
};

template <typename T>
void sample(const Tensor& logits, const Settings& settings, Tensor& token, Tensor& logprob) {
  const int64_t size = logits.size(1), stride = logits.stride(0);
  const T* data = static_cast<const T*>(logits.data_ptr());
  int64_t* tokens = token.mutable_data_ptr<int64_t>();
  float* logprobs = logprob.mutable_data_ptr<float>();
  torch::stable::parallel_for(0, logits.size(0), row_grain(size), [&](int64_t begin, int64_t end) {
    RowSampler<T> sampler(passes_here<T>(), size);
    for (int64_t b = begin; b < end; ++b) {
      sampler(data + b * stride, settings.at(b), tokens + b, logprobs + b);
    }
  });
}

// logits [B, V] float32 or bfloat16; settings [B] -> token int64 [B], log-probability float32 [B]
std::tuple<Tensor, Tensor> sample_tokens(const Tensor& logits, const Tensor& seed,
                                         const Tensor& step, const Tensor& temperature,
                                         const Tensor& top_p, const Tensor& top_k,
                                         const Tensor& forced) {
  STD_TORCH_CHECK(logits.dim() == 2 && logits.size(1) > 0, "logits must be [B, V] with V > 0");
  const int64_t rows = logits.size(0);
  const Settings settings(rows, logits.size(1), seed, step, temperature, top_p, top_k, forced);
  const Tensor numbers = logits.stride(1) == 1 ? logits : torch::stable::contiguous(logits);
  Tensor token = new_tensor(logits, {rows}, ScalarType::Long);
  Tensor logprob = new_tensor(logits, {rows}, ScalarType::Float);
  if (logits.scalar_type() == ScalarType::BFloat16) {
    sample<uint16_t>(numbers, settings, token, logprob);
  } else {
    check_dtype(logits, "logits (float32 or bfloat16)", ScalarType::Float);
    sample<float>(numbers, settings, token, logprob);
  }
  return {token, logprob};
}

}  // namespace
}  // namespace umer1

STABLE_TORCH_LIBRARY_IMPL(umer1_kernels, CPU, m) {
  m.impl("sample_tokens", TORCH_BOX(&umer1::sample_tokens));
}
