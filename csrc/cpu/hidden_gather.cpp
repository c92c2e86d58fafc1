// The hidden state at a token of each sequence, L2-normalised, and its gradient.
//
// Legend: R rows of all sequences, B sequences, H hidden size. Sequence b is searched in [begin[b],
// end[b]).

#include <cmath>
#include <tuple>

#include "common/hidden_gather.h"
#include "common/tensor.h"

#include <torch/csrc/stable/library.h>
#include <torch/headeronly/util/BFloat16.h>

namespace umer1 {
namespace {

using BFloat16 = torch::headeronly::BFloat16;

int64_t find(const int64_t* ids, int64_t begin, int64_t end, int64_t token_id, bool last) {
  if (last) {
    for (int64_t t = end - 1; t >= begin; --t) {
      if (ids[t] == token_id) return t;
    }
  } else {
    for (int64_t t = begin; t < end; ++t) {
      if (ids[t] == token_id) return t;
    }
  }
  return -1;
}

// `Out` is what is computed in: float for bfloat16 and float32 rows, double for float64.
template <typename In, typename Out>
std::tuple<Tensor, Tensor, Tensor> vectors_at(const Tensor& hidden, const Tensor& index,
                                          bool normalize) {
  const int64_t count = index.size(0), size = hidden.size(1), row_stride = hidden.stride(0);
  Tensor vectors = new_tensor(hidden, {count, size}, dtype_of<Out>());
  Tensor norm = new_tensor(hidden, {count}, dtype_of<Out>());
  const In* rows = hidden.const_data_ptr<In>();
  const int64_t* positions = index.const_data_ptr<int64_t>();
  Out* vector_data = vectors.mutable_data_ptr<Out>();
  Out* norm_data = norm.mutable_data_ptr<Out>();

  torch::stable::parallel_for(0, count, row_grain(size), [&](int64_t first, int64_t last) {
    for (int64_t b = first; b < last; ++b) {
      Out* vector = vector_data + b * size;
      if (positions[b] < 0) {
        for (int64_t h = 0; h < size; ++h) vector[h] = Out(0);
        norm_data[b] = Out(0);
        continue;
      }
      const In* row = rows + positions[b] * row_stride;
      double square = 0.0;
      for (int64_t h = 0; h < size; ++h) {
        vector[h] = static_cast<Out>(row[h]);
        square += static_cast<double>(vector[h]) * static_cast<double>(vector[h]);
      }
      const Out length = static_cast<Out>(std::sqrt(square));
      norm_data[b] = length;
      if (!normalize) continue;
      const Out divisor = gather::divisor_of(length);
      for (int64_t h = 0; h < size; ++h) vector[h] /= divisor;
    }
  });
  return {vectors, index, norm};
}

std::tuple<Tensor, Tensor, Tensor> gather_hidden(const Tensor& hidden, const Tensor& input_ids,
                                                 const Tensor& begin, const Tensor& end,
                                                 int64_t token_id, bool last, bool normalize) {
  STD_TORCH_CHECK(hidden.dim() == 2, "hidden has ", hidden.dim(), " dimensions, not 2");
  const int64_t rows = hidden.size(0), count = begin.size(0);
  const Tensor ids = int64_vector(input_ids, "input_ids", rows);
  const Tensor begins = int64_vector(begin, "begin", count);
  const Tensor ends = int64_vector(end, "end", count);
  // rows may be strided, but the numbers of a row lie side by side
  const Tensor states = hidden.stride(1) == 1 ? hidden : torch::stable::contiguous(hidden);

  Tensor index = new_tensor(ids, {count}, ScalarType::Long);
  const int64_t* id_data = ids.const_data_ptr<int64_t>();
  const int64_t* begin_data = begins.const_data_ptr<int64_t>();
  const int64_t* end_data = ends.const_data_ptr<int64_t>();
  int64_t* index_data = index.mutable_data_ptr<int64_t>();
  for (int64_t b = 0; b < count; ++b) {
    STD_TORCH_CHECK(begin_data[b] >= 0 && end_data[b] <= rows, "sequence ", b, " is searched in [",
                    begin_data[b], ", ", end_data[b], "), outside the ", rows, " rows of hidden");
    index_data[b] = find(id_data, begin_data[b], end_data[b], token_id, last);
  }
  switch (hidden.scalar_type()) {
    case ScalarType::Double:
      return vectors_at<double, double>(states, index, normalize);
    case ScalarType::BFloat16:
      return vectors_at<BFloat16, float>(states, index, normalize);
    default:
      check_dtype(hidden, "hidden (float64, float32 or bfloat16)", ScalarType::Float);
      return vectors_at<float, float>(states, index, normalize);
  }
}

template <typename In, typename Out>
void scatter(Tensor& hidden_grad, const Tensor& grad, const Tensor& vectors, const Tensor& index,
             const Tensor& norm, bool normalize) {
  const int64_t count = index.size(0), size = hidden_grad.size(1);
  check_shape(grad, "grad", {count, size});
  check_shape(vectors, "vectors", {count, size});
  check_dtype(grad, "grad", dtype_of<Out>());
  // an expanded gradient (from .sum()) has stride 0
  const Tensor grads = torch::stable::contiguous(grad);
  const Tensor units = torch::stable::contiguous(vectors);
  const Tensor norms = vector_of(norm, "norm", dtype_of<Out>(), count);
  In* rows = hidden_grad.mutable_data_ptr<In>();
  const Out* grad_data = grads.const_data_ptr<Out>();
  const Out* vector_data = units.const_data_ptr<Out>();
  const Out* norm_data = norms.const_data_ptr<Out>();
  const int64_t* positions = index.const_data_ptr<int64_t>();

  // one after another: overlapping sequences may share a row
  for (int64_t b = 0; b < count; ++b) {
    if (positions[b] < 0) continue;
    In* row = rows + positions[b] * size;
    const Out* g = grad_data + b * size;
    const Out* v = vector_data + b * size;
    double along = 0.0;
    double divisor = 1.0;
    if (normalize) {
      divisor = static_cast<double>(gather::divisor_of(norm_data[b]));
      if (!gather::is_tiny(norm_data[b])) {
        for (int64_t h = 0; h < size; ++h)
          along += static_cast<double>(v[h]) * static_cast<double>(g[h]);
      }
    }
    for (int64_t h = 0; h < size; ++h) {
      const double value = gather::gradient_of(g[h], v[h], along, divisor);
      row[h] = static_cast<In>(static_cast<Out>(row[h]) + static_cast<Out>(value));
    }
  }
}

void gather_hidden_backward_(Tensor hidden_grad, const Tensor& grad, const Tensor& vectors,
                             const Tensor& index, const Tensor& norm, bool normalize) {
  STD_TORCH_CHECK(hidden_grad.dim() == 2 && hidden_grad.is_contiguous(),
                  "hidden_grad must be contiguous with 2 dimensions");
  const Tensor positions = int64_vector(index, "index", index.size(0));
  const int64_t* data = positions.const_data_ptr<int64_t>();
  for (int64_t b = 0; b < positions.size(0); ++b) {
    STD_TORCH_CHECK(data[b] < hidden_grad.size(0), "index holds ", data[b], ", hidden_grad has ",
                    hidden_grad.size(0), " rows");
  }
  switch (hidden_grad.scalar_type()) {
    case ScalarType::Double:
      return scatter<double, double>(hidden_grad, grad, vectors, positions, norm, normalize);
    case ScalarType::BFloat16:
      return scatter<BFloat16, float>(hidden_grad, grad, vectors, positions, norm, normalize);
    default:
      check_dtype(hidden_grad, "hidden_grad (float64, float32 or bfloat16)", ScalarType::Float);
      return scatter<float, float>(hidden_grad, grad, vectors, positions, norm, normalize);
  }
}

}  // namespace
}  // namespace umer1

STABLE_TORCH_LIBRARY_IMPL(umer1_kernels, CPU, m) {
  m.impl("gather_hidden", TORCH_BOX(&umer1::gather_hidden));
  m.impl("gather_hidden_backward_", TORCH_BOX(&umer1::gather_hidden_backward_));
}
