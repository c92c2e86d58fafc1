// rows · weightᵀ + bias of bfloat16, the weight laid out in panels (bf16_product.h): made for few rows,
// where reading the weight is all there is to do, and as fast as any other for many.
//
// Every number is summed over the dimensions in order, in float32: a row gets the same bits alone and
// among others.

#include <algorithm>
#include <optional>
#include <vector>

#include "common/tensor.h"
#include "cpu/bf16_product.h"

#include <torch/csrc/stable/library.h>

namespace umer1 {
namespace {

using bf16::Bits;

constexpr int64_t kRowBlock = 192;        // rows whose sums a thread holds at a time
constexpr int64_t kDimensionBlock = 2048;  // dimensions of a panel that stay in the second-level cache
constexpr int64_t kLeastWork = 1 << 19;    // products worth a thread

#if defined(__x86_64__)
// Sums [count, 64] plus bias -> `width` columns of out, bfloat16 or float32.
template <typename Out>
UMER1_BF16_TARGET void finish(const float* sums, int64_t count, int64_t width, const Bits* bias,
                              Out* out, int64_t out_stride) {
  for (int64_t first = 0; first < width; first += 16) {
    const int64_t left = width - first;
    const __mmask16 mask = left >= 16 ? 0xffff : (1 << left) - 1;
    __m512 shift = _mm512_setzero_ps();
    if (bias != nullptr) {
      const __m256i bits = _mm256_maskz_loadu_epi16(mask, bias + first);
      shift = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
    }
    for (int64_t i = 0; i < count; ++i) {
      const __m512 value = _mm512_add_ps(_mm512_loadu_ps(sums + i * bf16::kPanel + first), shift);
      if constexpr (sizeof(Out) == sizeof(float)) {
        _mm512_mask_storeu_ps(out + i * out_stride + first, mask, value);
      } else {
        _mm256_mask_storeu_epi16(out + i * out_stride + first, mask,
                                 (__m256i)_mm512_cvtneps_pbh(value));
      }
    }
  }
}

template <typename Out>
void multiply_packed(const Bits* rows, int64_t count, int64_t dimension, const Bits* packed,
                     int64_t columns, const Bits* bias, Out* out) {
  const int64_t size = bf16::panel_size(dimension);
  const int64_t grain = std::max<int64_t>(1, kLeastWork / std::max<int64_t>(1, count * size));
  torch::stable::parallel_for(0, bf16::panels(columns), grain, [&](int64_t begin, int64_t end) {
    std::vector<float> sums(std::min(count, kRowBlock) * bf16::kPanel);
    for (int64_t panel = begin; panel < end; ++panel) {
      const int64_t column = panel * bf16::kPanel;
      for (int64_t row = 0; row < count; row += kRowBlock) {
        const int64_t some = std::min(kRowBlock, count - row);
        for (int64_t from = 0; from < dimension; from += kDimensionBlock) {
          bf16::multiply_panel(rows + row * dimension + from, dimension, some,
                               std::min(kDimensionBlock, dimension - from),
                               packed + panel * size + from * bf16::kPanel, sums.data(),
                               bf16::kPanel, from > 0);
        }
        finish(sums.data(), some, std::min<int64_t>(bf16::kPanel, columns - column),
               bias == nullptr ? nullptr : bias + column, out + row * columns + column, columns);
      }
    }
  });
}
#endif

// rows [T, K], packed [panels, pairs, 64, 2], bias [N], all bfloat16 -> [T, N]; wide: float32, as summed.
Tensor packed_linear(const Tensor& rows, const Tensor& packed, const std::optional<Tensor>& bias,
                     int64_t columns, bool wide) {
  STD_TORCH_CHECK(bf16::available(), "this CPU lacks AVX512-BF16");
  STD_TORCH_CHECK(rows.dim() == 2, "rows has ", rows.dim(), " dimensions, not 2");
  const int64_t count = rows.size(0), dimension = rows.size(1);
  check_dtype(rows, "rows", ScalarType::BFloat16);
  check_dtype(packed, "packed", ScalarType::BFloat16);
  check_shape(packed, "packed",
              {bf16::panels(columns), bf16::pairs(dimension), bf16::kPanel, 2});
  STD_TORCH_CHECK(packed.is_contiguous(), "packed must be contiguous");
  const Tensor source = torch::stable::contiguous(rows);
  std::optional<Tensor> shift;
  if (bias.has_value()) shift = vector_of(*bias, "bias", ScalarType::BFloat16, columns);
  Tensor out =
      new_tensor(rows, {count, columns}, wide ? ScalarType::Float : ScalarType::BFloat16);
#if defined(__x86_64__)
  const Bits* numbers = static_cast<const Bits*>(source.data_ptr());
  const Bits* weight = static_cast<const Bits*>(packed.data_ptr());
  const Bits* added = shift.has_value() ? static_cast<const Bits*>(shift->data_ptr()) : nullptr;
  if (wide) {
    multiply_packed(numbers, count, dimension, weight, columns, added,
                    static_cast<float*>(out.data_ptr()));
  } else {
    multiply_packed(numbers, count, dimension, weight, columns, added,
                    static_cast<Bits*>(out.data_ptr()));
  }
#endif
  return out;
}

}  // namespace
}  // namespace umer1

STABLE_TORCH_LIBRARY_IMPL(umer1_kernels, CPU, m) {
  m.impl("packed_linear", TORCH_BOX(&umer1::packed_linear));
}
