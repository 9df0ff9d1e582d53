// The kernels of one instruction set: GN_ISA names it, the compiler's flags choose it.
#include "common.h"
#include "layouts.h"

namespace groupnorm {
namespace GN_ISA {

namespace {

// A parameter in the accumulation type, every number `repeats` times; `otherwise` where there is none.
// Zeros up to a whole chunk come behind.
template <class T>
void copy(const void* parameter, const Problem& p, int64_t repeats, Acc<T> otherwise, Acc<T>* to) {
  using W = Acc<T>;
  for (int64_t c = 0; c < p.C; ++c) {
    W values[kNumbers<T>] = {otherwise};
    if (parameter && kIsHalf<T> && p.parameters_as_input)
      store_slots<T>(values, load_first(static_cast<const T*>(parameter) + c, 1, filled<T>(0)));
    else if (parameter) values[0] = static_cast<const W*>(parameter)[c];
    for (int64_t s = 0; s < repeats; ++s) to[c * repeats + s] = values[0];
  }
  store_slots<T>(to + p.C * repeats, filled<T>(0));
}

template <class T> void run(const Problem& p, bool backward) {
  const bool is_short = has_short_rows<T>(p);
  const bool converts = kIsHalf<T> && p.parameters_as_input;
  const int64_t repeats = is_short ? p.S : 1, size = is_short || converts ? p.C * repeats : 0;
  Scratch<Acc<T>> weight(size), bias(size);
  Problem q = p;
  if (is_short || (converts && p.weight)) {
    copy<T>(p.weight, p, repeats, 1, weight);
    q.weight = weight;
  }
  if (is_short || (converts && p.bias)) {
    copy<T>(p.bias, p, repeats, 0, bias);
    q.bias = bias;
  }
  return p.channels_last ? channels_last<T>(q, backward) : contiguous<T>(q, backward);
}

void run(const Problem& p, bool backward) {
#if defined(__AVX512BF16__)  // the other types have nothing of it
  if (p.type == Type::bf16) return run<bf16>(p, backward);
  return backward ? avx512::backward(p) : avx512::forward(p);
#else
  switch (p.type) {
    case Type::f32: return run<float>(p, backward);
    case Type::f64: return run<double>(p, backward);
    case Type::bf16: return run<bf16>(p, backward);
    case Type::f16: return run<f16>(p, backward);
  }
#endif
}

}  // namespace

void forward(const Problem& p) { run(p, false); }
void backward(const Problem& p) { run(p, true); }

}  // namespace GN_ISA
}  // namespace groupnorm
