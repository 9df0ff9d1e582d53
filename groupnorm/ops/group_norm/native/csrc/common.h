// Threads, scratch memory, and sums over samples: what the loops over both layouts share.
#pragma once

#include <math.h>
#include <stdlib.h>

#include "memory.h"
#include "problem.h"

namespace groupnorm {
namespace GN_ISA {

constexpr int64_t kGrain = 16384;  // numbers that are worth a thread

template <class F> void parallel(const Problem& p, int64_t count, int64_t grain, F body) {
  if (count <= 0) return;
  if (p.threads == 1 || count <= grain) return body(int64_t(0), count);
  const int error = p.parallel(
      0, count, grain,
      [](int64_t begin, int64_t end, void* context) { (*static_cast<F*>(context))(begin, end); },
      &body);
  if (error != 0) body(int64_t(0), count);  // PyTorch could start no threads
}

// How many parts to split a unit of work into so that `units` of them occupy the threads.
inline int64_t parts_for(const Problem& p, int64_t units, int64_t numbers_each) {
  if (p.threads == 1 || units >= 4 * p.threads || units % p.threads == 0) return 1;
  return larger<int64_t>(1, smaller<int64_t>(p.threads, numbers_each / kGrain));
}

// body(begin, end) over the units: on all threads where a unit has one part, else on this one,
// which then spreads the parts of one unit after the other.
template <class F>
void over_units(const Problem& p, int64_t units, int64_t parts, int64_t numbers_each, F body) {
  if (parts > 1) return body(int64_t(0), units);
  const int64_t grain = kGrain / larger<int64_t>(1, numbers_each);
  parallel(p, units, larger<int64_t>(1, grain), body);
}

// body(k, from, to) for `parts` stretches of [0, total), each a multiple of `unit` but the last.
template <class F>
GN_INLINE void over_parts(const Problem& p, int64_t parts, int64_t total, int64_t unit, F body) {
  if (parts == 1) return body(int64_t(0), int64_t(0), total);
  const int64_t part = (total + parts * unit - 1) / (parts * unit) * unit;
  parallel(p, parts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k)
      body(k, smaller(total, k * part), smaller(total, (k + 1) * part));
  });
}

// Memory for numbers, not initialized, aligned and padded to whole chunks.
template <class E> class Scratch {
 public:
  explicit Scratch(int64_t count) {
    const size_t bytes = (size_t(count) * sizeof(E) / kVectorBytes + 3) * kVectorBytes;
    data_ = static_cast<E*>(aligned_alloc(kVectorBytes, bytes));
    if (data_ == nullptr) abort();
  }
  ~Scratch() { free(data_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  operator E*() const { return data_; }

 private:
  E* data_;
};

// A pointer further on, null staying null.
template <class P> GN_INLINE P* advance(P* p, int64_t by) { return p ? p + by : nullptr; }

// So many samples' gradients of parameters are added up in the accumulation type.
inline int64_t samples_per_sum(const Problem& p) {
  return larger<int64_t>(1, smaller<int64_t>(32, p.N / (4 * int64_t(p.threads))));
}

// The sum of term(i) for i in [begin, end), which do not wait for one another.
template <class F> GN_INLINE double sum_of(int64_t begin, int64_t end, F term) {
  double sums[4] = {0, 0, 0, 0};
  for (; begin + 4 <= end; begin += 4)
    for (int j = 0; j < 4; ++j) sums[j] += term(begin + j);
  for (; begin < end; ++begin) sums[0] += term(begin);
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

// sums[i] += sums of the other parts, in their order; each has `width` numbers.
inline void add_parts(double* sums, int64_t parts, int64_t width) {
  for (int64_t k = 1; k < parts; ++k)
    for (int64_t i = 0; i < width; ++i) sums[i] += sums[k * width + i];
}

// The gradient of a parameter: the sum of `values` over the rows, `stride` apart, in their order, and
// over `repeats` neighbouring numbers for each channel.
template <class W>
void sum_rows(const Problem& p, int64_t rows, int64_t stride, int64_t repeats, const W* values,
              void* result) {
  if (result == nullptr) return;
  W* out = static_cast<W*>(result);
  const int64_t grain = kGrain / larger<int64_t>(1, rows * repeats);
  parallel(p, p.C, larger<int64_t>(1, grain), [&](int64_t begin, int64_t end) {
    constexpr int kChannels = 64;
    double sums[kChannels];
    for (int64_t c = begin; c < end; c += kChannels) {
      const int width = int(smaller<int64_t>(kChannels, end - c));
      for (int i = 0; i < width; ++i) sums[i] = 0;
      for (int64_t n = 0; n < rows; ++n)
        for (int i = 0; i < width; ++i)
          for (int64_t s = 0; s < repeats; ++s)
            sums[i] += double(values[n * stride + (c + i) * repeats + s]);
      for (int i = 0; i < width; ++i) out[c + i] = W(sums[i]);
    }
  });
}

}  // namespace GN_ISA
}  // namespace groupnorm
