// The largest value of a floating type.

#pragma once

#include <limits>

namespace umer1 {

template <typename T>
constexpr T kInfinity = std::numeric_limits<T>::infinity();

}  // namespace umer1
