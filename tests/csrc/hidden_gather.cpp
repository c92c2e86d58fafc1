// The gather kernels on the CPU: the functions of csrc/common with the blocks' workers in a
// shuffled order. Called through ctypes; hidden states are float32.

#include "common/hidden_gather.h"
#include "host_block.h"

namespace {

using umer1::emulation::HostBlock;
using namespace umer1::gather;

constexpr int kPack = 4;

struct Row {
  float* row;
  int64_t size;

  void read(int64_t at, float (&values)[kPack]) const {
    for (int i = 0; i < kPack; ++i) values[i] = at + i < size ? row[at + i] : 0.0f;
  }
  void write(int64_t at, const float (&values)[kPack]) const {
    for (int i = 0; i < kPack && at + i < size; ++i) row[at + i] = values[i];
  }
};

}  // namespace

// hidden [rows, size], begin and end [count] -> vectors [count, size], index [count], norm [count];
// then the gradient of hidden (zeros before) from `grad` [count, size].
extern "C" void gather(float* hidden, const int64_t* ids, const int64_t* begin, const int64_t* end,
                       int64_t count, int64_t size, int64_t token_id, bool last, bool normalize,
                       unsigned seed, float* vectors, int64_t* index, float* norm, float* grad,
                       float* hidden_grad) {
  for (int64_t b = 0; b < count; ++b) {
    const HostBlock block(0, 1, kWorkers, seed + static_cast<unsigned>(b));
    index[b] = find(block, ids, begin[b], end[b], token_id, last);
    if (index[b] < 0) continue;
    const Row row = {hidden + index[b] * size, size}, out = {vectors + b * size, size};
    norm[b] = norm_of<float, kPack>(block, size, row);
    write_row<float, kPack>(block, size, row, normalize ? divisor_of(norm[b]) : 1.0f, out);
    const Row g = {grad + b * size, size}, to = {hidden_grad + index[b] * size, size};
    write_gradient<float, kPack>(block, size, g, out, norm[b], normalize, to);
  }
}
