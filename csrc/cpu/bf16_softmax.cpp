// Softmaxes of bfloat16 rows and candidates without their logits in memory: the product of a panel of
// rows and candidates is made in float32 in the cache and used up there.
//
// Legend: R rows, C candidates, D dimension. Candidates go in slabs, packed once for all rows; within
// a slab panels of 24 rows are the tasks of the threads. Pools are merged in the order of the slabs
// and panels, whatever the number of threads.

#include <tuple>
#include <vector>

#include "common/tensor.h"
#include "cpu/bf16_panels.h"
#include "cpu/softmax_arguments.h"
#include "cpu/softmax_lanes.h"

#include <torch/csrc/stable/library.h>

namespace umer1 {
namespace {

using bf16::Bits;

#if defined(__x86_64__)
struct Pooled {
  Tensor best, total, moment, column_best, column_total;
};

// Pools of all slabs; each panel's x goes to `keep(slab, row, x, mask, best)` when the row is done.
template <typename Keep>
Pooled pool(Product& product, float scale, const SoftmaxArguments& arguments, const Tensor& like,
            bool columns, bool moment, const Keep& keep) {
  const float sign = scale < 0.0f ? -1.0f : 1.0f, nothing = -kInfinity<float> * sign;
  const auto floats = [&](int64_t n) { return new_tensor(like, {n}, ScalarType::Float); };
  Pooled result{floats(product.count), floats(product.count), floats(moment ? product.count : 0),
                floats(columns ? product.candidates : 0), floats(columns ? product.candidates : 0)};
  const RunningPool running{result.best.mutable_data_ptr<float>(),
                            result.total.mutable_data_ptr<float>(),
                            moment ? result.moment.mutable_data_ptr<float>() : nullptr};
  std::fill_n(running.best, product.count, nothing);
  std::fill_n(running.total, product.count, 0.0f);
  if (moment) std::fill_n(running.moment, product.count, 0.0f);
  float* column_best = columns ? result.column_best.mutable_data_ptr<float>() : nullptr;
  float* column_total = columns ? result.column_total.mutable_data_ptr<float>() : nullptr;
  std::vector<float> panel_best(columns ? product.panels * kSlab : 0);
  std::vector<float> panel_total(panel_best.size());

  for (int64_t slab = 0; slab < product.slabs; ++slab) {
    const int64_t column = slab * kSlab, width = std::min(kSlab, product.candidates - column);
    product.slab(slab, [&](int64_t panel, int64_t row, int64_t rows, float* x) {
      NoNegatives masks[kRows];
      for (int64_t i = 0; i < rows; ++i) masks[i] = arguments.mask(row + i, column);
      if (columns) {
        float* best = panel_best.data() + panel * kSlab;
        float* total = panel_total.data() + panel * kSlab;
        std::fill_n(best, width, nothing);
        std::fill_n(total, width, 0.0f);
        lanes::column_merge(x, kSlab, rows, width, scale, masks, best, total);
      }
      for (int64_t i = 0; i < rows; ++i) {
        float* values = x + i * kSlab;
        const float largest = lanes::row_best(values, width, sign, masks[i]);
        const float best = largest == -kInfinity<float> ? 0.0f : largest * sign;
        float total = 0.0f, weighted = 0.0f;
        float* out = keep.wanted ? values : nullptr;
        lanes::row_exp(values, width, scale, masks[i], best, out, &total,
                       moment ? &weighted : nullptr);
        running.add(row + i, scale, best, total, weighted);
        keep(slab, row + i, width, values, best);
      }
    });
    if (!columns) continue;
    std::fill_n(column_best + column, width, nothing);
    std::fill_n(column_total + column, width, 0.0f);
    for (int64_t panel = 0; panel < product.panels; ++panel) {
      merge(width, scale, column_best + column, column_total + column,
            panel_best.data() + panel * kSlab, panel_total.data() + panel * kSlab);
    }
  }
  return result;
}

struct KeepNothing {
  static constexpr bool wanted = false;
  void operator()(int64_t, int64_t, int64_t, const float*, float) const {}
};

// exp(scale (x - best of the row's slab)) as bfloat16, and those bests.
struct KeepExponentials {
  static constexpr bool wanted = true;
  Bits* exponentials;  // [R, C]
  float* slab_best;    // [R, slabs]
  int64_t candidates, slabs;

  void operator()(int64_t slab, int64_t row, int64_t width, const float* e, float best) const {
    round_to(exponentials + row * candidates + slab * kSlab, e, width);
    slab_best[row * slabs + slab] = best;
  }
};
#endif

void check(const Tensor& rows, const Tensor& candidates) {
  STD_TORCH_CHECK(bf16::available(), "this processor has no AVX512-BF16");
  STD_TORCH_CHECK(rows.dim() == 2 && candidates.dim() == 2, "rows and candidates are matrices");
  check_dtype(rows, "rows", ScalarType::BFloat16);
  check_dtype(candidates, "candidates", ScalarType::BFloat16);
  check_shape(candidates, "candidates", {candidates.size(0), rows.size(1)});
}

Bits* matrix(Tensor& tensor, const char* name, int64_t rows, int64_t columns) {
  check_shape(tensor, name, {rows, columns});
  check_dtype(tensor, name, ScalarType::BFloat16);
  STD_TORCH_CHECK(tensor.is_contiguous(), name, " must be contiguous");
  return static_cast<Bits*>(tensor.mutable_data_ptr());
}

bool bf16_softmax_available() { return bf16::available(); }

using Five = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;

Five bf16_pools(const Tensor& rows, const Tensor& candidates, const Tensor& scale,
                const Tensor& excluded, const std::optional<Tensor>& row_id,
                const std::optional<Tensor>& candidate_id, bool columns, bool moment) {
  check(rows, candidates);
  const SoftmaxArguments arguments(rows.size(0), candidates.size(0), excluded, row_id,
                                   candidate_id);
#if defined(__x86_64__)
  const float factor = scalar_value<float>(scale, "scale", ScalarType::Float);
  Product product(rows, candidates);
  const Pooled r = pool(product, factor, arguments, rows, columns, moment, KeepNothing{});
  return {r.best, r.total, r.moment, r.column_best, r.column_total};
#else
  return {};
#endif
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> bf16_keep(
    const Tensor& rows, const Tensor& candidates, const Tensor& scale, const Tensor& excluded,
    const std::optional<Tensor>& row_id, const std::optional<Tensor>& candidate_id, bool columns,
    bool moment, Tensor exponentials) {
  check(rows, candidates);
  const SoftmaxArguments arguments(rows.size(0), candidates.size(0), excluded, row_id,
                                   candidate_id);
#if defined(__x86_64__)
  const float factor = scalar_value<float>(scale, "scale", ScalarType::Float);
  Product product(rows, candidates);
  Tensor slab_best = new_tensor(rows, {product.count, product.slabs}, ScalarType::Float);
  const KeepExponentials keep{
      matrix(exponentials, "exponentials", product.count, product.candidates),
      slab_best.mutable_data_ptr<float>(), product.candidates, product.slabs};
  const Pooled r = pool(product, factor, arguments, rows, columns, moment, keep);
  return {r.best, r.total, r.moment, r.column_best, r.column_total, slab_best};
#else
  return {};
#endif
}

// What bf16_keep kept becomes the gradient, in place.
void bf16_kept_gradient_(Tensor exponentials, const Tensor& scale, const Tensor& excluded,
                         const Tensor& slab_best, const Tensor& best, const Tensor& row,
                         const Tensor& label, const std::optional<Tensor>& column_best,
                         const std::optional<Tensor>& column) {
#if defined(__x86_64__)
  const int64_t count = exponentials.size(0), candidates = exponentials.size(1);
  const int64_t slabs = (candidates + kSlab - 1) / kSlab;
  const SoftmaxArguments arguments(count, candidates, excluded, std::nullopt, std::nullopt);
  const GradientArguments gradient(arguments, ScalarType::Float, best, row, label, std::nullopt,
                                   column_best, column);
  const CoefficientPointers<float> at(gradient);
  const float factor = scalar_value<float>(scale, "scale", ScalarType::Float);
  check_shape(slab_best, "slab_best", {count, slabs});
  const float* offsets = slab_best.const_data_ptr<float>();
  Bits* kept = matrix(exponentials, "exponentials", count, candidates);
  const auto run = [&](int64_t begin, int64_t end) UMER1_BF16_TARGET {
    std::vector<float> wide(kSlab);
    for (int64_t i = begin; i < end; ++i) {
      for (int64_t slab = 0; slab < slabs; ++slab) {
        const int64_t first = slab * kSlab, width = std::min(kSlab, candidates - first);
        const float offset = offsets[i * slabs + slab];
        const float part = at.row[i] == 0.0f ? 0.0f : at.row[i] * std::exp((offset - at.best[i]) * factor);
        Bits* values = kept + i * candidates + first;
        for (int64_t j = 0; j < width; j += kLanes) {
          const __mmask16 mask = width - j >= 16 ? 0xffff : (1 << (width - j)) - 1;
          const __m512i bits = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, values + j));
          const Lanes e = (Lanes)_mm512_slli_epi32(bits, 16);
          Lanes result = e * part;
          if (at.column != nullptr) {
            const Lanes coefficient = lanes::load(at.column + first + j, width - j);
            const Lanes shift = (offset - lanes::load(at.column_best + first + j, width - j)) * factor;
            result += coefficient != 0.0f ? e * coefficient * lanes::exp_lanes(shift) : Lanes{};
          }
          lanes::store(wide.data() + j, result, width - j);
        }
        round_to(values, wide.data(), width);
      }
      const int64_t hole = arguments.mask(i, 0).hole;
      kept[i * candidates + hole] = rounded(at.label[i]);
    }
  };
  torch::stable::parallel_for(0, count, row_grain(candidates), run);
#endif
}

void bf16_gradient_(const Tensor& rows, const Tensor& candidates, const Tensor& scale,
                    const Tensor& excluded, const std::optional<Tensor>& row_id,
                    const std::optional<Tensor>& candidate_id, const Tensor& best,
                    const Tensor& row, const Tensor& label, const std::optional<Tensor>& slope,
                    const std::optional<Tensor>& column_best, const std::optional<Tensor>& column,
                    Tensor out) {
  check(rows, candidates);
  const SoftmaxArguments arguments(rows.size(0), candidates.size(0), excluded, row_id,
                                   candidate_id);
  const GradientArguments gradient(arguments, ScalarType::Float, best, row, label, slope,
                                   column_best, column);
#if defined(__x86_64__)
  const CoefficientPointers<float> at(gradient);
  const float factor = scalar_value<float>(scale, "scale", ScalarType::Float);
  Product product(rows, candidates);
  Bits* result = matrix(out, "out", product.count, product.candidates);
  for (int64_t slab = 0; slab < product.slabs; ++slab) {
    const int64_t first = slab * kSlab, width = std::min(kSlab, product.candidates - first);
    product.slab(slab, [&](int64_t, int64_t begin, int64_t count, float* x) {
      for (int64_t k = 0; k < count; ++k) {
        const int64_t i = begin + k;
        const NoNegatives mask = arguments.mask(i, first);
        float* values = x + k * kSlab;
        lanes::row_gradient(values, width, factor, mask, at.best[i], at.row[i], at.slope_of(i),
                            at.column == nullptr ? nullptr : at.column_best + first,
                            at.column == nullptr ? nullptr : at.column + first);
        if (mask.hole >= 0 && mask.hole < width) values[mask.hole] = at.label[i];
        round_to(result + i * product.candidates + first, values, width);
      }
    });
  }
#endif
}

}  // namespace
}  // namespace umer1

STABLE_TORCH_LIBRARY_IMPL(umer1_kernels, CPU, m) {
  m.impl("bf16_pools", TORCH_BOX(&umer1::bf16_pools));
  m.impl("bf16_keep", TORCH_BOX(&umer1::bf16_keep));
  m.impl("bf16_kept_gradient_", TORCH_BOX(&umer1::bf16_kept_gradient_));
  m.impl("bf16_gradient_", TORCH_BOX(&umer1::bf16_gradient_));
}

STABLE_TORCH_LIBRARY_IMPL(umer1_kernels, CompositeExplicitAutograd, m) {
  m.impl("bf16_softmax_available", TORCH_BOX(&umer1::bf16_softmax_available));
}
