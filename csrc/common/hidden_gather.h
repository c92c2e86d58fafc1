// The hidden state at a token: its search and L2 norm by the workers of one block, and the
// arithmetic shared with the CPU.
//
// `Block` runs a function for each of its kWorkers workers and then waits for all; its sum() and
// maximum() give every worker what a function of the workers comes to. `Reader` has read(at, values)
// for the elements at, at + 1, ... of a row, `Writer` write(at, values); both know where it ends.

#pragma once

#include <cmath>
#include <cstdint>

#include "common/host_device.h"

namespace umer1::gather {

constexpr double kEpsilon = 1e-12;  // smallest norm divided by
constexpr int kWorkers = 256;       // threads of a block
constexpr int kLook = 4;            // positions that a worker looks at in one round

// Below it the divisor is a constant. A NaN norm is not: it stays NaN.
template <typename T>
UMER1_HOST_DEVICE bool is_tiny(T norm) {
  return norm < T(kEpsilon);
}

template <typename T>
UMER1_HOST_DEVICE T divisor_of(T norm) {
  return is_tiny(norm) ? T(kEpsilon) : norm;
}

// d/dx (x / |x|) = (g - v <v, g>) / |x|; `along` is <v, g>, or 0 where the divisor is a constant.
UMER1_HOST_DEVICE inline double gradient_of(double g, double v, double along, double divisor) {
  return (g - v * along) / divisor;
}

// The last (or first) position of the token in [begin, end); -1 if there is none.
template <class Block>
UMER1_HOST_DEVICE int64_t find(const Block& block, const int64_t* ids, int64_t begin, int64_t end,
                               int64_t token_id, bool last) {
  constexpr int kRound = kWorkers * kLook;
  for (int64_t searched = 0; begin + searched < end; searched += kRound) {
    const int64_t low = last ? most(begin, end - searched - kRound) : begin + searched;
    const int64_t high = last ? end - searched : least(end, low + kRound);
    // the position wanted is the largest place: counted from 1, upwards or downwards
    const int place = block.maximum([&](int worker) {
      int found = 0;
      for (int look = 0; look < kLook; ++look) {
        const int64_t position = low + look * kWorkers + worker;
        if (position >= high || ids[position] != token_id) continue;
        found = most(found, static_cast<int>(last ? position - low + 1 : high - position));
      }
      return found;
    });
    if (place > 0) return last ? low + place - 1 : high - place;
  }
  return -1;
}

// The sum over all columns of a row, `kPack` at a time, of what `term` makes of each.
template <int kPack, class Block, class Term>
UMER1_HOST_DEVICE double sum_over_row(const Block& block, int64_t size, const Term& term) {
  return block.sum([&](int worker) {
    double sum = 0.0;
    UMER1_UNROLL_BY(1)
    for (int64_t at = static_cast<int64_t>(worker) * kPack; at < size; at += kWorkers * kPack) {
      sum += term(at);
    }
    return sum;
  });
}

// The L2 norm of a row, added up in double precision.
template <typename T, int kPack, class Block, class Reader>
UMER1_HOST_DEVICE T norm_of(const Block& block, int64_t size, const Reader& row) {
  const double square = sum_over_row<kPack>(block, size, [&](int64_t at) {
    T values[kPack];
    row.read(at, values);
    double sum = 0.0;
    for (int i = 0; i < kPack; ++i) {
      sum += static_cast<double>(values[i]) * static_cast<double>(values[i]);
    }
    return sum;
  });
  return static_cast<T>(std::sqrt(square));
}

// The row divided by `divisor`.
template <typename T, int kPack, class Block, class Reader, class Writer>
UMER1_HOST_DEVICE void write_row(const Block& block, int64_t size, const Reader& row, T divisor,
                                 const Writer& out) {
  block.each([&](int worker) {
    UMER1_UNROLL_BY(1)
    for (int64_t at = static_cast<int64_t>(worker) * kPack; at < size; at += kWorkers * kPack) {
      T values[kPack];
      row.read(at, values);
      for (int i = 0; i < kPack; ++i) values[i] /= divisor;
      out.write(at, values);
    }
  });
}

// The gradient of a row from that of its vector, g; `unit` is the vector.
template <typename T, int kPack, class Block, class Reader, class Writer>
UMER1_HOST_DEVICE void write_gradient(const Block& block, int64_t size, const Reader& g,
                                      const Reader& unit, T norm, bool normalize,
                                      const Writer& out) {
  double along = 0.0, divisor = 1.0;
  if (normalize) {
    divisor = static_cast<double>(divisor_of(norm));
    if (!is_tiny(norm)) {
      along = sum_over_row<kPack>(block, size, [&](int64_t at) {
        T values[kPack], units[kPack];
        g.read(at, values);
        unit.read(at, units);
        double sum = 0.0;
        for (int i = 0; i < kPack; ++i) {
          sum += static_cast<double>(values[i]) * static_cast<double>(units[i]);
        }
        return sum;
      });
    }
  }
  block.each([&](int worker) {
    UMER1_UNROLL_BY(1)
    for (int64_t at = static_cast<int64_t>(worker) * kPack; at < size; at += kWorkers * kPack) {
      T values[kPack], units[kPack];
      g.read(at, values);
      if (normalize) {
        unit.read(at, units);
        for (int i = 0; i < kPack; ++i) {
          values[i] = static_cast<T>(gradient_of(values[i], units[i], along, divisor));
        }
      }
      out.write(at, values);
    }
  });
}

}  // namespace umer1::gather
