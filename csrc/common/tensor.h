// Small helpers over stable-ABI tensors: checks that name the argument, allocation, typed pointers.

#pragma once

#include <optional>
#include <vector>

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

namespace umer1 {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline void check_shape(const Tensor& tensor, const char* name, const std::vector<int64_t>& shape) {
  STD_TORCH_CHECK(tensor.dim() == static_cast<int64_t>(shape.size()), name, " has ", tensor.dim(),
                  " dimensions, not ", shape.size());
  for (size_t d = 0; d < shape.size(); ++d) {
    STD_TORCH_CHECK(tensor.size(d) == shape[d], name, " has size ", tensor.size(d),
                    " in dimension ", d, ", not ", shape[d]);
  }
}

inline void check_dtype(const Tensor& tensor, const char* name, ScalarType dtype) {
  STD_TORCH_CHECK(tensor.scalar_type() == dtype, name, " has a wrong dtype");
}

// A contiguous int64 vector of this length.
inline Tensor int64_vector(const Tensor& tensor, const char* name, int64_t length) {
  check_shape(tensor, name, {length});
  check_dtype(tensor, name, ScalarType::Long);
  return torch::stable::contiguous(tensor);
}

inline std::optional<Tensor> int64_vector(const std::optional<Tensor>& tensor, const char* name,
                                          int64_t length) {
  if (!tensor.has_value()) return std::nullopt;
  return int64_vector(*tensor, name, length);
}

// A contiguous vector of this dtype and length.
inline Tensor vector_of(const Tensor& tensor, const char* name, ScalarType dtype, int64_t length) {
  check_shape(tensor, name, {length});
  check_dtype(tensor, name, dtype);
  return torch::stable::contiguous(tensor);
}

inline Tensor new_tensor(const Tensor& like, const std::vector<int64_t>& shape, ScalarType dtype) {
  return torch::stable::new_empty(like, shape, dtype);
}

inline const int64_t* int64_pointer(const std::optional<Tensor>& tensor) {
  return tensor.has_value() ? tensor->const_data_ptr<int64_t>() : nullptr;
}

template <typename T>
T scalar_value(const Tensor& tensor, const char* name, ScalarType dtype) {
  STD_TORCH_CHECK(tensor.numel() == 1, name, " must be one number");
  check_dtype(tensor, name, dtype);
  return *tensor.const_data_ptr<T>();
}

template <typename T>
constexpr ScalarType dtype_of() {
  if constexpr (std::is_same_v<T, double>) return ScalarType::Double;
  return ScalarType::Float;
}

// Rows per task so that a task touches about 32768 elements.
inline int64_t row_grain(int64_t columns) {
  return std::max<int64_t>(1, 32768 / std::max<int64_t>(1, columns));
}

}  // namespace umer1
