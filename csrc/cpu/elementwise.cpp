// A forward without gradients: normalisation, activations and rotations of float32 or bfloat16 rows.
// What a row gets does not depend on the rows beside it.

#include <cmath>

#include "common/tensor.h"
#include "cpu/lanes.h"

#include <torch/csrc/stable/library.h>

namespace umer1 {
namespace {

typedef uint16_t HalfLanes __attribute__((vector_size(2 * kLanes)));
typedef uint32_t UnsignedLanes __attribute__((vector_size(4 * kLanes)));

#define UMER1_VARIANT portable
#define UMER1_TARGET
#include "cpu/elementwise_lanes.inc"
#undef UMER1_VARIANT
#undef UMER1_TARGET

#if defined(__x86_64__)
#define UMER1_VARIANT avx2
#define UMER1_TARGET __attribute__((target("avx2,fma")))
#include "cpu/elementwise_lanes.inc"
#undef UMER1_VARIANT
#undef UMER1_TARGET

#define UMER1_VARIANT avx512
#define UMER1_TARGET __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")))
#include "cpu/elementwise_lanes.inc"
#endif

template <typename T>
struct Steps {
  void (*rms_norm)(const T*, const T*, int64_t, int64_t, int64_t, float, T*);
  void (*swiglu)(const T*, int64_t, int64_t, int64_t, T*);
  void (*quick_gelu)(const T*, int64_t, int64_t, T*);
  void (*rotate)(T*, const float*, int64_t, int64_t, int64_t, int64_t, int64_t);
};

// By what the processor has.
template <typename T>
Steps<T> steps_here() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")) {
    return {avx512::rms_norm_rows<T>, avx512::swiglu_rows<T>, avx512::quick_gelu_numbers<T>,
            avx512::rotate_rows<T>};
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    return {avx2::rms_norm_rows<T>, avx2::swiglu_rows<T>, avx2::quick_gelu_numbers<T>,
            avx2::rotate_rows<T>};
  }
#endif
  return {portable::rms_norm_rows<T>, portable::swiglu_rows<T>, portable::quick_gelu_numbers<T>,
          portable::rotate_rows<T>};
}

// Calls `run` with a null pointer of the stored type.
template <typename Run>
void with_dtype(const Tensor& tensor, const char* name, const Run& run) {
  if (tensor.scalar_type() == ScalarType::BFloat16) return run(static_cast<uint16_t*>(nullptr));
  STD_TORCH_CHECK(tensor.scalar_type() == ScalarType::Float, name,
                  " has a wrong dtype; wanted is float32 or bfloat16");
  run(static_cast<float*>(nullptr));
}

template <typename T>
T* data_of(const Tensor& tensor) {
  return static_cast<T*>(tensor.data_ptr());
}

Tensor rms_norm(const Tensor& rows, const Tensor& weight, double eps) {
  STD_TORCH_CHECK(rows.dim() == 2, "rows has ", rows.dim(), " dimensions, not 2");
  const int64_t count = rows.size(0), width = rows.size(1);
  check_shape(weight, "weight", {width});
  check_dtype(weight, "weight (that of rows is wanted)", rows.scalar_type());
  const Tensor from = torch::stable::contiguous(rows), scales = torch::stable::contiguous(weight);
  Tensor result = new_tensor(rows, {count, width}, rows.scalar_type());
  with_dtype(rows, "rows", [&]<typename T>(T*) {
    const Steps<T> steps = steps_here<T>();
    torch::stable::parallel_for(0, count, row_grain(width), [&](int64_t begin, int64_t end) {
      steps.rms_norm(data_of<T>(from), data_of<T>(scales), begin, end, width, eps,
                     data_of<T>(result));
    });
  });
  return result;
}

Tensor swiglu(const Tensor& gate_up) {
  STD_TORCH_CHECK(gate_up.dim() == 2 && gate_up.size(1) % 2 == 0,
                  "gate_up must be [rows, 2 F], gates first");
  const int64_t count = gate_up.size(0), width = gate_up.size(1) / 2;
  const Tensor from = torch::stable::contiguous(gate_up);
  Tensor result = new_tensor(gate_up, {count, width}, gate_up.scalar_type());
  with_dtype(gate_up, "gate_up", [&]<typename T>(T*) {
    const Steps<T> steps = steps_here<T>();
    torch::stable::parallel_for(0, count, row_grain(2 * width), [&](int64_t begin, int64_t end) {
      steps.swiglu(data_of<T>(from), begin, end, width, data_of<T>(result));
    });
  });
  return result;
}

Tensor quick_gelu(const Tensor& numbers) {
  const Tensor from = torch::stable::contiguous(numbers);
  Tensor result = torch::stable::empty_like(from);
  with_dtype(numbers, "numbers", [&]<typename T>(T*) {
    const Steps<T> steps = steps_here<T>();
    // in whole lanes: where a thread's part ends changes nothing
    const int64_t count = from.numel(), blocks = (count + kLanes - 1) / kLanes;
    torch::stable::parallel_for(0, blocks, row_grain(kLanes), [&](int64_t begin, int64_t end) {
      steps.quick_gelu(data_of<T>(from), begin * kLanes, std::min(end * kLanes, count),
                       data_of<T>(result));
    });
  });
  return result;
}

// fused [T, heads, D], the first `rotated` heads of it turned by rotation complex64 [T, 1, D / 2]
void rotate_heads_(Tensor fused, int64_t rotated, const Tensor& rotation) {
  STD_TORCH_CHECK(fused.dim() == 3 && fused.is_contiguous() && fused.size(2) % 2 == 0,
                  "fused must be contiguous [T, heads, D] with an even D");
  const int64_t count = fused.size(0), heads = fused.size(1), size = fused.size(2);
  STD_TORCH_CHECK(rotated >= 0 && rotated <= heads, "rotated is ", rotated, " of ", heads, " heads");
  check_shape(rotation, "rotation", {count, 1, size / 2});
  check_dtype(rotation, "rotation (complex64 is wanted)", ScalarType::ComplexFloat);
  const Tensor turns = torch::stable::contiguous(rotation);
  with_dtype(fused, "fused", [&]<typename T>(T*) {
    const Steps<T> steps = steps_here<T>();
    const int64_t grain = row_grain(rotated * size);
    torch::stable::parallel_for(0, count, grain, [&](int64_t begin, int64_t end) {
      steps.rotate(data_of<T>(fused), data_of<float>(turns), begin, end, heads, rotated, size);
    });
  });
}

}  // namespace
}  // namespace umer1

STABLE_TORCH_LIBRARY_IMPL(umer1_kernels, CPU, m) {
  m.impl("rms_norm", TORCH_BOX(&umer1::rms_norm));
  m.impl("swiglu", TORCH_BOX(&umer1::swiglu));
  m.impl("quick_gelu", TORCH_BOX(&umer1::quick_gelu));
  m.impl("rotate_heads_", TORCH_BOX(&umer1::rotate_heads_));
}
