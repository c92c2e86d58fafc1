// Where and how kernels are launched: the tensors' device, its current stream, errors in words.

#pragma once

#include <cuda_runtime.h>

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include "common/tensor.h"

namespace umer1::cuda {

inline void check(cudaError_t error, const char* what) {
  STD_TORCH_CHECK(error == cudaSuccess, what, ": ", cudaGetErrorString(error));
}

inline void check_device(const Tensor& tensor, const char* name, const Tensor& other) {
  STD_TORCH_CHECK(tensor.is_cuda(), name, " is not on a CUDA device");
  STD_TORCH_CHECK(tensor.get_device_index() == other.get_device_index(), name, " is on device ",
                  tensor.get_device_index(), ", other arguments on ", other.get_device_index());
}

inline void check_device(const std::optional<Tensor>& tensor, const char* name,
                         const Tensor& other) {
  if (tensor.has_value()) check_device(*tensor, name, other);
}

inline cudaStream_t current_stream(const Tensor& tensor) {
  void* stream = nullptr;
  const auto error = aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream);
  STD_TORCH_CHECK(error == 0, "the current CUDA stream cannot be read");
  return static_cast<cudaStream_t>(stream);
}

inline int multiprocessors(const Tensor& tensor) {
  int count = 0;
  check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, tensor.get_device_index()),
        "the number of multiprocessors cannot be read");
  return count;
}

inline bool is_aligned(const void* pointer, size_t bytes) {
  return reinterpret_cast<uintptr_t>(pointer) % bytes == 0;
}

}  // namespace umer1::cuda
