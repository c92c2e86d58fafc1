// The hidden state at a token of each sequence, L2-normalised, its gradient, and the same for the
// slots of a decoder: the operators and their launches.
//
// Legend: R rows of all sequences, B sequences, H hidden size.

#include <optional>
#include <tuple>

#include <torch/csrc/stable/library.h>

#include "cuda/hidden_gather.cuh"
#include "cuda/launch.cuh"

namespace umer1::cuda {
namespace {

// Calls `function` with a number of the type that hidden states have.
template <class Function>
void with_type(const Tensor& tensor, const char* name, const Function& function) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float:
      return function(float());
    case ScalarType::Double:
      return function(double());
    case ScalarType::BFloat16:
      return function(__nv_bfloat16());
    case ScalarType::Half:
      return function(__half());
    default:
      STD_TORCH_CHECK(false, name, " must be float32, float64, bfloat16 or float16");
  }
}

// Whether rows of this tensor can be read 16 bytes of `In` at a time, or as many elements.
template <typename In>
bool rows_are_aligned(const Tensor& tensor, size_t element) {
  constexpr int kPack = kPackOf<In>;
  return tensor.size(1) % kPack == 0 && tensor.stride(0) % kPack == 0 &&
         is_aligned(tensor.const_data_ptr(), element * kPack);
}

unsigned blocks_of(int64_t count) {
  STD_TORCH_CHECK(count < int64_t{1} << 31, count, " sequences are more than a launch takes");
  return static_cast<unsigned>(count);
}

template <typename T>
T* data(const Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

template <typename T>
const T* read_data(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}

Tensor rows_of(const Tensor& hidden) {
  STD_TORCH_CHECK(hidden.dim() == 2, "hidden has ", hidden.dim(), " dimensions, not 2");
  // rows may be strided, but the numbers of a row lie side by side
  return hidden.stride(1) == 1 ? hidden : torch::stable::contiguous(hidden);
}

std::tuple<Tensor, Tensor, Tensor> gather_hidden(const Tensor& hidden, const Tensor& input_ids,
                                                 const Tensor& begin, const Tensor& end,
                                                 int64_t token_id, bool last, bool normalize) {
  const torch::stable::accelerator::DeviceGuard guard(hidden.get_device_index());
  const Tensor rows = rows_of(hidden);
  const int64_t size = rows.size(1), count = begin.size(0);
  const Tensor ids = int64_vector(input_ids, "input_ids", rows.size(0));
  const Tensor begins = int64_vector(begin, "begin", count);
  const Tensor ends = int64_vector(end, "end", count);
  check_device(ids, "input_ids", hidden);
  check_device(begins, "begin", hidden);
  check_device(ends, "end", hidden);
  const bool is_double = rows.scalar_type() == ScalarType::Double;
  const ScalarType wide = is_double ? ScalarType::Double : ScalarType::Float;
  const std::tuple<Tensor, Tensor, Tensor> outputs = {new_tensor(rows, {count, size}, wide),
                                                      new_tensor(ids, {count}, ScalarType::Long),
                                                      new_tensor(rows, {count}, wide)};
  if (count == 0) return outputs;
  const Sequences sequences = {ids.const_data_ptr<int64_t>(),
                               rows.size(0),
                               begins.const_data_ptr<int64_t>(),
                               ends.const_data_ptr<int64_t>(),
                               token_id,
                               last,
                               normalize};
  with_type(rows, "hidden", [&](auto number) {
    using In = decltype(number);
    using T = Wide<In>;
    const auto& [vectors, index, norm] = outputs;
    const bool aligned = rows_are_aligned<In>(rows, sizeof(In));
    const auto kernel = aligned ? gather_kernel<In, true> : gather_kernel<In, false>;
    kernel<<<blocks_of(count), kWorkers, 0, current_stream(rows)>>>(
        read_data<In>(rows), rows.stride(0), size, sequences, data<T>(vectors),
        data<int64_t>(index), data<T>(norm));
    check(cudaGetLastError(), "gather_hidden cannot be launched");
  });
  return outputs;
}

void gather_hidden_backward_(Tensor hidden_grad, const Tensor& grad, const Tensor& vectors,
                             const Tensor& index, const Tensor& norm, bool normalize) {
  STD_TORCH_CHECK(hidden_grad.dim() == 2 && hidden_grad.is_contiguous(),
                  "hidden_grad must be contiguous with 2 dimensions");
  const torch::stable::accelerator::DeviceGuard guard(hidden_grad.get_device_index());
  const int64_t count = index.size(0), size = hidden_grad.size(1);
  const bool is_double = hidden_grad.scalar_type() == ScalarType::Double;
  const ScalarType wide = is_double ? ScalarType::Double : ScalarType::Float;
  check_shape(grad, "grad", {count, size});
  check_shape(vectors, "vectors", {count, size});
  check_dtype(grad, "grad", wide);
  check_dtype(vectors, "vectors", wide);
  const Tensor positions = int64_vector(index, "index", count);
  const Tensor norms = vector_of(norm, "norm", wide, count);
  check_device(grad, "grad", hidden_grad);
  check_device(vectors, "vectors", hidden_grad);
  check_device(positions, "index", hidden_grad);
  check_device(norms, "norm", hidden_grad);
  if (count == 0) return;
  // an expanded gradient (from .sum()) has stride 0
  const Tensor grads = torch::stable::contiguous(grad);
  const Tensor units = torch::stable::contiguous(vectors);
  with_type(hidden_grad, "hidden_grad", [&](auto number) {
    using In = decltype(number);
    using T = Wide<In>;
    const bool aligned = rows_are_aligned<In>(hidden_grad, sizeof(In)) &&
                         rows_are_aligned<In>(grads, sizeof(T)) &&
                         rows_are_aligned<In>(units, sizeof(T));
    const auto kernel = aligned ? scatter_kernel<In, true> : scatter_kernel<In, false>;
    kernel<<<blocks_of(count), kWorkers, 0, current_stream(hidden_grad)>>>(
        data<In>(hidden_grad), hidden_grad.size(0), size, read_data<T>(grads),
        read_data<T>(units), positions.const_data_ptr<int64_t>(), read_data<T>(norms), normalize);
    check(cudaGetLastError(), "gather_hidden's gradient cannot be launched");
  });
}

void generation_step_(Tensor vectors, Tensor hit, const Tensor& hidden, const Tensor& input_ids,
                      const Tensor& slot_ids, const Tensor& generated, int64_t token_id,
                      bool normalize) {
  const torch::stable::accelerator::DeviceGuard guard(hidden.get_device_index());
  const Tensor rows = rows_of(hidden);
  const int64_t count = rows.size(0), size = rows.size(1), slots = hit.size(0);
  check_shape(vectors, "vectors", {slots, size});
  check_dtype(vectors, "vectors", ScalarType::Float);
  check_shape(hit, "hit", {slots});
  check_dtype(hit, "hit", ScalarType::Bool);
  STD_TORCH_CHECK(vectors.stride(1) == 1 && hit.stride(0) == 1,
                  "rows of vectors, and hit, must be contiguous");
  const Tensor ids = int64_vector(input_ids, "input_ids", count);
  const Tensor slot = int64_vector(slot_ids, "slot_ids", count);
  const Tensor flags = vector_of(generated, "generated", ScalarType::Bool, count);
  check_device(vectors, "vectors", hidden);
  check_device(hit, "hit", hidden);
  check_device(ids, "input_ids", hidden);
  check_device(slot, "slot_ids", hidden);
  check_device(flags, "generated", hidden);
  if (count == 0) return;
  const Slots where = {ids.const_data_ptr<int64_t>(),
                       slot.const_data_ptr<int64_t>(),
                       flags.const_data_ptr<bool>(),
                       slots,
                       token_id,
                       normalize};
  with_type(rows, "hidden", [&](auto number) {
    using In = decltype(number);
    const bool aligned =
        rows_are_aligned<In>(rows, sizeof(In)) && rows_are_aligned<In>(vectors, sizeof(float));
    const auto kernel = aligned ? step_kernel<In, true> : step_kernel<In, false>;
    kernel<<<blocks_of(count), kWorkers, 0, current_stream(rows)>>>(
        read_data<In>(rows), rows.stride(0), size, where, vectors.mutable_data_ptr<float>(),
        vectors.stride(0), hit.mutable_data_ptr<bool>());
    check(cudaGetLastError(), "GenerationGather's step cannot be launched");
  });
}

}  // namespace
}  // namespace umer1::cuda

STABLE_TORCH_LIBRARY_IMPL(umer1_kernels, CUDA, m) {
  m.impl("gather_hidden", TORCH_BOX(&umer1::cuda::gather_hidden));
  m.impl("gather_hidden_backward_", TORCH_BOX(&umer1::cuda::gather_hidden_backward_));
  m.impl("generation_step_", TORCH_BOX(&umer1::cuda::generation_step_));
}
