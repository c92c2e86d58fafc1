// The tensor cores' instructions as the PTX manual describes them: ldmatrix, mma.m16n8k16, wgmma.
//
// A warp's 32 lanes, or a warpgroup's 128 threads, at a time. Sums are float32, in some order: the
// manual leaves it open.

#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <stdexcept>

#include "common/bfloat16.h"

namespace umer1::emulation {

// Shared memory, whose addresses start at `base` (a multiple of 1024).
struct SharedMemory {
  unsigned char* data;
  uint32_t base, size;

  uint16_t number(uint32_t address) const {
    if (address < base || address - base + 2 > size) throw std::out_of_range("shared memory");
    uint16_t bits;
    std::memcpy(&bits, data + (address - base), sizeof(bits));
    return bits;
  }
  float value(uint32_t address) const { return widen_bfloat16(number(address)); }
};

// ldmatrix.m8n8.x4: lane 8 k + i gives the address of row i of matrix k; every lane gets two numbers
// of each matrix: (i, j) and (i, j + 1) with i = lane / 4, j = lane % 4 * 2, or of the transposed one.
inline void load_matrices(const SharedMemory& shared, const std::array<uint32_t, 32>& address,
                          bool transposed, uint32_t (&to)[32][4]) {
  for (int lane = 0; lane < 32; ++lane) {
    if (address[lane] % 16 != 0) throw std::invalid_argument("ldmatrix reads 16 aligned bytes");
    const int i = lane / 4, j = lane % 4 * 2;
    for (int matrix = 0; matrix < 4; ++matrix) {
      uint32_t word = 0;
      for (int k = 0; k < 2; ++k) {
        const int row = transposed ? j + k : i, column = transposed ? i : j + k;
        const uint32_t bits = shared.number(address[8 * matrix + row] + 2 * column);
        word |= bits << (16 * k);
      }
      to[lane][matrix] = word;
    }
  }
}

inline float half_of(uint32_t word, int k) {
  return widen_bfloat16(static_cast<uint16_t>(word >> (16 * k)));
}

// The left fragment of mma.m16n8k16: register r of a lane holds row lane / 4 (+ 8 if r is odd) and
// depth lane % 4 * 2 (+ 8 for r >= 2) and the next.
inline void unpack_left(const uint32_t (&words)[32][4], float (&matrix)[16][16]) {
  for (int lane = 0; lane < 32; ++lane) {
    for (int item = 0; item < 8; ++item) {
      const int r = item / 2, k = item % 2;
      const int row = lane / 4 + (r % 2) * 8, depth = lane % 4 * 2 + k + (r / 2) * 8;
      matrix[row][depth] = half_of(words[lane][r], k);
    }
  }
}

// The right one, registers b0 and b1: depth lane % 4 * 2 (+ 8 for b1) and the next, column lane / 4.
inline void unpack_right(const uint32_t (&words)[32][4], int first, float (&matrix)[16][8]) {
  for (int lane = 0; lane < 32; ++lane) {
    for (int item = 0; item < 4; ++item) {
      const int r = item / 2, k = item % 2;
      matrix[lane % 4 * 2 + k + r * 8][lane / 4] = half_of(words[lane][first + r], k);
    }
  }
}

// One warp; `sums_of(lane)` is where that lane's sums begin.
template <class SumsOf>
struct WarpModel {
  const SharedMemory& shared;
  const SumsOf& sums_of;
  float left[4][16][16], right[2][16][8];

  template <bool kTransposed, class Address>
  void load_left(int down, const Address& address) {
    uint32_t words[32][4];
    load_matrices(shared, addresses(address), kTransposed, words);
    unpack_left(words, left[down]);
  }
  template <bool kTransposed, class Address>
  void load_right(const Address& address) {
    uint32_t words[32][4];
    load_matrices(shared, addresses(address), kTransposed, words);
    unpack_right(words, 0, right[0]);
    unpack_right(words, 2, right[1]);
  }
  // Sums c0, c1: row lane / 4, columns lane % 4 * 2 and the next; c2, c3: eight rows below.
  void multiply(int down, int across, int sum) {
    float product[16][8] = {};
    for (int row = 0; row < 16; ++row) {
      for (int depth = 0; depth < 16; ++depth) {
        const float factor = left[down][row][depth];
        for (int column = 0; column < 8; ++column) {
          product[row][column] += factor * right[across][depth][column];
        }
      }
    }
    for (int lane = 0; lane < 32; ++lane) {
      float* sums = sums_of(lane) + sum;
      for (int k = 0; k < 4; ++k) {
        sums[k] += product[lane / 4 + k / 2 * 8][lane % 4 * 2 + k % 2];
      }
    }
  }

 private:
  template <class Address>
  static std::array<uint32_t, 32> addresses(const Address& address) {
    std::array<uint32_t, 32> result;
    for (int lane = 0; lane < 32; ++lane) result[lane] = address(lane);
    return result;
  }
};

// A matrix behind a wgmma descriptor, in the 128-byte swizzled layouts: 16 of the depth.
struct DescribedMatrix {
  uint32_t start, leading, stride;

  explicit DescribedMatrix(uint64_t descriptor)
      : start((descriptor & 0x3fff) << 4),
        leading((descriptor >> 16 & 0x3fff) << 4),
        stride((descriptor >> 32 & 0x3fff) << 4) {
    if (descriptor >> 62 != 1) throw std::invalid_argument("not the 128-byte swizzle");
    if ((descriptor >> 49 & 7) != 0) throw std::invalid_argument("base offset is not 0");
  }
  // Depth side by side: eight lines of 128 bytes, then the next eight `stride` further. Lines side by
  // side: 64 of them in 128 bytes, the next 64 `leading` further; eight of the depth, the next eight
  // `stride` further. Then bits 4 to 6 of the address are xored with bits 7 to 9.
  uint32_t address(int line, int depth, bool by_line) const {
    const uint32_t plain =
        by_line ? start + line / 64 * leading + line % 64 * 2 + depth / 8 * stride + depth % 8 * 128
                : start + line / 8 * stride + line % 8 * 128 + depth * 2;
    return plain ^ (plain >> 7 & 7) << 4;
  }
};

// One warpgroup. d: warp w of the four has rows 16 w and on, as mma has them; column block by column
// block of eight, four sums each.
template <class SumsOf>
struct WarpgroupModel {
  const SharedMemory& shared;
  const SumsOf& sums_of;  // of thread 0 to 127

  template <int kColumns, bool kLeftByLine, bool kRightByLine>
  void multiply(int sum, uint64_t left, uint64_t right) {
    const DescribedMatrix a(left), b(right);
    static float rows[64][16], columns[16][kColumns];
    for (int depth = 0; depth < 16; ++depth) {
      for (int row = 0; row < 64; ++row) {
        rows[row][depth] = shared.value(a.address(row, depth, kLeftByLine));
      }
      for (int column = 0; column < kColumns; ++column) {
        columns[depth][column] = shared.value(b.address(column, depth, kRightByLine));
      }
    }
    static float product[64][kColumns];
    std::memset(product, 0, sizeof(product));
    for (int row = 0; row < 64; ++row) {
      for (int depth = 0; depth < 16; ++depth) {
        const float factor = rows[row][depth];
        for (int column = 0; column < kColumns; ++column) {
          product[row][column] += factor * columns[depth][column];
        }
      }
    }
    for (int thread = 0; thread < 128; ++thread) {
      float* sums = sums_of(thread) + sum;
      const int row = thread / 32 * 16 + thread % 32 / 4, column = thread % 4 * 2;
      for (int k = 0; k < kColumns / 2; ++k) {
        sums[k] += product[row + k / 2 % 2 * 8][k / 4 * 8 + column + k % 2];
      }
    }
  }
};

}  // namespace umer1::emulation
