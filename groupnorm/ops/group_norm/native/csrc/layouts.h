// The passes over one layout, compiled for each type by itself: see contiguous.cpp, channels_last.cpp.
#pragma once

#include "problem.h"
#include "simd.h"

namespace groupnorm {
namespace GN_ISA {

// Whether a channel's row is shorter than a chunk; then weight and bias are to be there for every number,
// with zeros up to a whole chunk behind the last.
template <class T> GN_INLINE bool has_short_rows(const Problem& p) {
  return !p.channels_last && p.I == 1 && p.S < kNumbers<T>;
}

template <class T> void contiguous(const Problem& p, bool backward);
template <class T> void channels_last(const Problem& p, bool backward);

}  // namespace GN_ISA
}  // namespace groupnorm
