// The kernels of one instruction set: GN_ISA names it, the compiler's flags choose it.
#include "channels_last_backward.h"
#include "images.h"

namespace groupnorm {
namespace GN_ISA {

namespace {

// The loops over one type's numbers that an activation is compiled into.
template <class T> struct Loops {
  using W = Acc<T>;
  decltype(&apply_rows<T, Activation::none>) apply_rows, apply_short_rows;
  decltype(&apply_channels<T, Activation::none>) apply_channels;
  decltype(&add_row_gradients<T, Activation::none>) add_row_gradients;
  decltype(&write_row_gradients<T, Activation::none>) write_row_gradients;
  decltype(&short_rows_gradient<T, Activation::none>) short_rows_gradient;
  decltype(&add_channel_gradients<T, Activation::none>) add_channel_gradients;
  decltype(&write_channel_gradients<T, Activation::none>) write_channel_gradients;
};

template <class T, Activation A> Loops<T> loops_with() {
  return {apply_rows<T, A>,          apply_short_rows<T, A>,     apply_channels<T, A>,
          add_row_gradients<T, A>,   write_row_gradients<T, A>,  short_rows_gradient<T, A>,
          add_channel_gradients<T, A>, write_channel_gradients<T, A>};
}

template <class T> Loops<T> loops_for(Activation a) {
  switch (a) {
    case Activation::none: break;
    case Activation::relu: return loops_with<T, Activation::relu>();
    case Activation::leaky_relu: return loops_with<T, Activation::leaky_relu>();
    case Activation::silu: return loops_with<T, Activation::silu>();
    case Activation::gelu: return loops_with<T, Activation::gelu>();
    case Activation::gelu_tanh: return loops_with<T, Activation::gelu_tanh>();
    case Activation::mish: return loops_with<T, Activation::mish>();
    case Activation::hardswish: return loops_with<T, Activation::hardswish>();
  }
  return loops_with<T, Activation::none>();
}

// A copy of parameter (C) in the accumulation type; null for null.
template <class T> const void* accumulation_copy(const void* parameter, int64_t C, Acc<T>* copy) {
  if (parameter == nullptr) return nullptr;
  const T* from = static_cast<const T*>(parameter);
  for_vectors<Acc<T>>(C, [&](auto partial, int64_t i, int n) GN_INLINE_LAMBDA {
    constexpr bool P = decltype(partial)::value;
    store<P>(copy + i, load<P>(from + i, n), n);
  });
  return copy;
}

template <class T> void run(const Problem& p, bool backward) {
  if (sizeof(T) < sizeof(Acc<T>) && p.parameters_as_input) {
    Scratch<Acc<T>> weight(p.C), bias(p.C);
    Problem q = p;
    q.weight = accumulation_copy<T>(p.weight, p.C, weight);
    q.bias = accumulation_copy<T>(p.bias, p.C, bias);
    q.parameters_as_input = false;
    return run<T>(q, backward);
  }
  if (p.I > 1) return backward ? backward_images<T>(p) : forward_images<T>(p);
  const Loops<T> loops = loops_for<T>(p.activation);
  const bool is_short = p.S < kShortRow;
  if (!backward && p.channels_last) forward_channels_last<T>(p, loops.apply_channels);
  else if (!backward)
    forward_contiguous<T>(p, is_short ? loops.apply_short_rows : loops.apply_rows);
  else if (p.channels_last)
    backward_channels_last<T>(p, loops.add_channel_gradients, loops.write_channel_gradients);
  else if (is_short) backward_short_rows<T>(p, loops.short_rows_gradient);
  else backward_contiguous<T>(p, loops.add_row_gradients, loops.write_row_gradients);
}

void run(const Problem& p, bool backward) {
  switch (p.type) {
    case Type::f32: return run<float>(p, backward);
    case Type::f64: return run<double>(p, backward);
    case Type::bf16: return run<bf16>(p, backward);
    case Type::f16: return run<f16>(p, backward);
  }
}

template <Activation A>
void activate_as(const float* z, float* value, float* slope, int64_t count) {
  for_vectors<float>(count, [&](auto partial, int64_t i, int n) GN_INLINE_LAMBDA {
    constexpr bool P = decltype(partial)::value;
    const Floats v = load<P>(z + i, n);
    store<P>(value + i, value_of<A>(v), n);
    store<P>(slope + i, slope_of<A>(v), n);
  });
}

}  // namespace

void forward(const Problem& p) { run(p, false); }
void backward(const Problem& p) { run(p, true); }

void activate(Activation a, const float* z, float* value, float* slope, int64_t count) {
  switch (a) {
    case Activation::none: return activate_as<Activation::none>(z, value, slope, count);
    case Activation::relu: return activate_as<Activation::relu>(z, value, slope, count);
    case Activation::leaky_relu: return activate_as<Activation::leaky_relu>(z, value, slope, count);
    case Activation::silu: return activate_as<Activation::silu>(z, value, slope, count);
    case Activation::gelu: return activate_as<Activation::gelu>(z, value, slope, count);
    case Activation::gelu_tanh: return activate_as<Activation::gelu_tanh>(z, value, slope, count);
    case Activation::mish: return activate_as<Activation::mish>(z, value, slope, count);
    case Activation::hardswish: return activate_as<Activation::hardswish>(z, value, slope, count);
  }
}

}  // namespace GN_ISA
}  // namespace groupnorm
