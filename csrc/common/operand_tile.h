// Operands of matrix products in shared memory, and who holds what of a product: index maps only.
//
// A product of `lines` x depth by depth x `lines`, bfloat16, 64 of the depth at a time. Matrices in
// memory have either their depth or their lines side by side; an operand's tile keeps that order, in
// rows of 128 bytes:
//
//   depth side by side   row = line                                          (64 of the depth)
//   lines side by side   row = depth, 64 such rows for each 64 of the lines  (64 lines)
//
// The eight 16-byte pieces of a row are permuted by the row's number modulo 8, so that eight rows'
// pieces of the same column lie in different memory banks. This is the 128-byte swizzle of the
// Hopper tensor cores (PTX ISA, "matrix descriptor"); `ldmatrix` reads it piece by piece. The tile
// must begin at a multiple of 1024 bytes.

#pragma once

#include <cstdint>

#include "common/dual_schedule.h"
#include "common/host_device.h"

namespace umer1::dual {

enum class Major { kDepth, kLine };

constexpr int kPiece = 8;                     // numbers in 16 bytes
constexpr int kPieces = kLineBytes / 16;      // of a row
constexpr int kStep = 16;                     // depth of one tensor core instruction
constexpr int kSteps = kDepth / kStep;
constexpr int kBlockLines = 64;
constexpr int kBlockBytes = kBlockLines * kLineBytes;
constexpr int kAtomBytes = 8 * kLineBytes;  // eight rows: the period of the permutation

UMER1_HOST_DEVICE inline int piece_offset(int row, int piece) {
  return row * kLineBytes + ((piece ^ (row & 7)) << 4);
}

// A matrix in memory as one side of a product. Numbers beyond its rows and columns count as 0.
struct Operand {
  const uint16_t* data;
  int64_t stride;
  int rows, columns;
};

// Where the tile's piece `number` comes from; `first_line` and `first_depth` are the tile's.
struct Piece {
  int row, column;  // of the matrix
};

template <Major kMajor>
UMER1_HOST_DEVICE inline Piece piece_of(int number, int first_line, int first_depth) {
  const int row = number / kPieces, piece = number % kPieces;
  if (kMajor == Major::kDepth) return {first_line + row, first_depth + piece * kPiece};
  return {first_depth + row % kBlockLines,
          first_line + row / kBlockLines * kBlockLines + piece * kPiece};
}

// ldmatrix, four 8 x 8 matrices: the byte offset of the piece whose address lane `lane` gives.
//
// Left: the 16 lines from `line` on, as the registers a0..a3 of mma.m16n8k16. Lines side by side need
// the transposing form.
template <Major kMajor>
UMER1_HOST_DEVICE inline int left_fragment(int line, int step, int lane) {
  if (kMajor == Major::kDepth) {
    return piece_offset(line + (lane & 15), step * 2 + (lane >> 4));
  }
  const int matrix = lane >> 3;
  const int depth = step * kStep + (matrix >> 1) * 8 + (lane & 7);
  const int first = line + (matrix & 1) * 8;
  return piece_offset(first / kBlockLines * kBlockLines + depth, first % kBlockLines / kPiece);
}

// Right: the 16 lines from `line` on, as b0, b1 of two instructions of 8 lines each.
template <Major kMajor>
UMER1_HOST_DEVICE inline int right_fragment(int line, int step, int lane) {
  const int matrix = lane >> 3;
  if (kMajor == Major::kDepth) {
    return piece_offset(line + (matrix >> 1) * 8 + (lane & 7), step * 2 + (matrix & 1));
  }
  const int depth = step * kStep + (matrix & 1) * 8 + (lane & 7);
  const int first = line + (matrix >> 1) * 8;
  return piece_offset(first / kBlockLines * kBlockLines + depth, first % kBlockLines / kPiece);
}

// wgmma's matrix descriptor of the operand from `line` (a multiple of 64) on, for one step of depth.
// `address` is that of the tile in shared memory.
template <Major kMajor>
UMER1_HOST_DEVICE inline uint64_t matrix_descriptor(uint32_t address, int line, int step) {
  constexpr uint64_t kSwizzle128 = 1;
  const int begin = line / kBlockLines * kBlockBytes +
                    (kMajor == Major::kDepth ? step * kStep * 2 : step * kStep * kLineBytes);
  // between 64 lines and the next 64; has no meaning where the depth is side by side
  const uint64_t leading = kMajor == Major::kDepth ? 16 : kBlockBytes;
  // between eight rows and the next eight
  const uint64_t stride = kAtomBytes;
  return static_cast<uint64_t>(((address + begin) & 0x3ffff) >> 4) | (leading >> 4) << 16 |
         (stride >> 4) << 32 | kSwizzle128 << 62;
}

// Of a product's tile, each thread holds groups of 16 sums. sum(group, half, tile, k) stands in row
//     row_of(...) and column column_of(...) + 8 tile + k
// where half and k are 0 or 1, tile 0 to 3. Four neighbouring threads hold the 32 columns of a group.
UMER1_HOST_DEVICE inline int sum_index(int group, int half, int tile, int k) {
  return (group * 4 + tile) * 4 + half * 2 + k;
}

// The first column and the row of (group, half).
struct Place {
  int row, column;
};

// mma.m16n8k16, eight warps: each has 64 rows, and the columns are shared by the warps side by side.
template <class Shape>
struct WarpLayout {
  static constexpr int kDown = Shape::kRows / 64, kAcross = kThreads / 32 / kDown;
  static constexpr int kColumns = Shape::kColumns / kAcross;
  static constexpr int kGroups = kColumns / 32;  // side by side in a warp's 16 rows

  UMER1_HOST_DEVICE static int first_row(int thread) { return thread / 32 / kAcross * 64; }
  UMER1_HOST_DEVICE static int first_column(int thread) {
    return thread / 32 % kAcross * kColumns;
  }
  UMER1_HOST_DEVICE static Place place(int thread, int group, int half) {
    const int lane = thread % 32;
    return {first_row(thread) + group / kGroups * 16 + half * 8 + lane / 4,
            first_column(thread) + group % kGroups * 32};
  }
};

// wgmma, two warpgroups: each has half of the rows, 64 at a time, and all columns.
template <class Shape>
struct WarpgroupLayout {
  static constexpr int kRows = Shape::kRows / 2, kParts = kRows / 64;
  static constexpr int kGroups = Shape::kColumns / 32;  // in 64 rows
  static constexpr int kPartSums = Shape::kColumns / 2;

  UMER1_HOST_DEVICE static int first_row(int thread) { return thread / 128 * kRows; }
  UMER1_HOST_DEVICE static Place place(int thread, int group, int half) {
    const int lane = thread % 32, warp = thread / 32 % 4;
    return {first_row(thread) + group / kGroups * 64 + warp * 16 + half * 8 + lane / 4,
            group % kGroups * 32};
  }
};

template <class Shape, bool kWarpgroups>
UMER1_HOST_DEVICE inline Place place_of(int thread, int group, int half) {
  if constexpr (kWarpgroups) return WarpgroupLayout<Shape>::place(thread, group, half);
  return WarpLayout<Shape>::place(thread, group, half);
}

// The four threads' columns within 8 of a group.
UMER1_HOST_DEVICE inline int first_of_two(int thread) { return thread % 4 * 2; }

}  // namespace umer1::dual
