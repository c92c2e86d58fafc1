// The kernels of hidden_gather.cu: one block per sequence or slot.
//
// Legend: R rows of all sequences, B sequences, H hidden size.

#pragma once

#include <type_traits>

#include "common/hidden_gather.h"
#include "cuda/block.cuh"
#include "cuda/numbers.cuh"

namespace umer1::cuda {

using gather::kWorkers;
using GatherBlock = ThreadBlock<kWorkers>;

// What numbers of type In are computed in.
template <typename In>
using Wide = std::conditional_t<std::is_same_v<In, double>, double, float>;

// Elements in 16 bytes.
template <typename In>
constexpr int kPackOf = 16 / sizeof(In);

template <typename In, bool kAligned>
struct Reader {
  const In* row;
  int64_t size;

  template <typename T, int kPack>
  UMER1_HOST_DEVICE void read(int64_t at, T (&values)[kPack]) const {
    if constexpr (kAligned) {
      const auto pack = *reinterpret_cast<const Pack<In, kPack>*>(row + at);
#pragma unroll
      for (int i = 0; i < kPack; ++i) values[i] = static_cast<T>(widen(pack.value[i]));
    } else {
#pragma unroll
      for (int i = 0; i < kPack; ++i) {
        values[i] = at + i < size ? static_cast<T>(widen(row[at + i])) : T(0);
      }
    }
  }
};

template <typename Out, bool kAligned>
struct Writer {
  Out* row;
  int64_t size;

  template <typename T, int kPack>
  UMER1_HOST_DEVICE void write(int64_t at, const T (&values)[kPack]) const {
    if constexpr (kAligned) {
      Pack<Out, kPack> pack;
#pragma unroll
      for (int i = 0; i < kPack; ++i) narrow(values[i], pack.value[i]);
      *reinterpret_cast<Pack<Out, kPack>*>(row + at) = pack;
    } else {
#pragma unroll
      for (int i = 0; i < kPack; ++i) {
        if (at + i < size) narrow(values[i], row[at + i]);
      }
    }
  }
};

struct Sequences {
  const int64_t* ids;  // [rows]
  int64_t rows;
  const int64_t* begin;  // [B]
  const int64_t* end;
  int64_t token_id;
  bool last, normalize;
};

template <typename In, bool kAligned>
__global__ void __launch_bounds__(kWorkers, 4)
    gather_kernel(const In* hidden, int64_t stride, int64_t size, const Sequences sequences,
                  Wide<In>* vectors, int64_t* index, Wide<In>* norm) {
  using T = Wide<In>;
  constexpr int kPack = kPackOf<In>;
  const GatherBlock block;
  const int64_t b = blockIdx.x;
  // whatever the offsets say, nothing outside the rows is read
  const int64_t begin = most<int64_t>(sequences.begin[b], 0);
  const int64_t end = least(sequences.end[b], sequences.rows);
  const int64_t found =
      gather::find(block, sequences.ids, begin, end, sequences.token_id, sequences.last);
  const Writer<T, kAligned> out = {vectors + b * size, size};
  T length = T(0);
  if (found < 0) {
    UMER1_UNROLL_BY(1)
    for (int64_t at = int64_t{threadIdx.x} * kPack; at < size; at += kWorkers * kPack) {
      const T zeros[kPack] = {};
      out.write(at, zeros);
    }
  } else {
    const Reader<In, kAligned> row = {hidden + found * stride, size};
    length = gather::norm_of<T, kPack>(block, size, row);
    const T divisor = sequences.normalize ? gather::divisor_of(length) : T(1);
    gather::write_row<T, kPack>(block, size, row, divisor, out);
  }
  if (threadIdx.x == 0) {
    index[b] = found;
    norm[b] = length;
  }
}

// hidden_grad holds zeros, and no row is taken twice.
template <typename In, bool kAligned>
__global__ void __launch_bounds__(kWorkers, 4)
    scatter_kernel(In* hidden_grad, int64_t rows, int64_t size, const Wide<In>* grad,
                   const Wide<In>* vectors, const int64_t* index, const Wide<In>* norm,
                   bool normalize) {
  using T = Wide<In>;
  const int64_t b = blockIdx.x, row = index[b];
  if (row < 0 || row >= rows) return;
  const Reader<T, kAligned> g = {grad + b * size, size}, unit = {vectors + b * size, size};
  const Writer<In, kAligned> out = {hidden_grad + row * size, size};
  gather::write_gradient<T, kPackOf<In>>(GatherBlock(), size, g, unit, norm[b], normalize, out);
}

struct Slots {
  const int64_t* ids;     // [B]: what each row read
  const int64_t* slots;   // [B]: where it belongs, or -1
  const bool* generated;  // [B]
  int64_t count, token_id;
  bool normalize;
};

template <typename In, bool kAligned>
__global__ void __launch_bounds__(kWorkers, 4)
    step_kernel(const In* hidden, int64_t stride, int64_t size, const Slots slots, float* vectors,
                int64_t vector_stride, bool* hit) {
  constexpr int kPack = kPackOf<In>;
  // three loads at once, not one after the other
  const int64_t b = blockIdx.x, slot = slots.slots[b], id = slots.ids[b];
  const bool generated = slots.generated[b];
  if (id != slots.token_id || !generated || slot < 0 || slot >= slots.count) return;
  const GatherBlock block;
  const Reader<In, kAligned> row = {hidden + b * stride, size};
  const Writer<float, kAligned> out = {vectors + slot * vector_stride, size};
  float divisor = 1.0f;
  if (slots.normalize) {
    divisor = gather::divisor_of(gather::norm_of<float, kPack>(block, size, row));
  }
  gather::write_row<float, kPack>(block, size, row, divisor, out);
  if (threadIdx.x == 0) hit[slot] = true;
}

}  // namespace umer1::cuda
