// The Python module: chooses the instruction set and calls a kernel without the interpreter's lock.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstdint>
#include <string>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "problem.h"

namespace nb = nanobind;
using groupnorm::Activation;
using groupnorm::Problem;
using groupnorm::Type;

namespace {

struct Kernels {
  const char* name;
  void (*forward)(const Problem&);
  void (*backward)(const Problem&);
  void (*activate)(Activation, const float*, float*, float*, int64_t);
};

#define GN_KERNELS(isa) \
  Kernels { #isa, groupnorm::isa::forward, groupnorm::isa::backward, groupnorm::isa::activate }

// What this processor runs, the fastest first.
std::vector<Kernels> available() {
  std::vector<Kernels> found;
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    found.push_back(GN_KERNELS(avx512));
  if (avx2) found.push_back(GN_KERNELS(avx2));
#endif
  found.push_back(GN_KERNELS(portable));
  return found;
}

const std::vector<Kernels> all_kernels = available();
Kernels kernels = all_kernels.front();
groupnorm::ParallelFor parallel_for = nullptr;

// A large output is new memory most of the time, and its first touch faults page by page: ask for
// huge pages (about half the time of such a pass). A hint, on Linux alone; nothing depends on it.
constexpr int64_t kLarge = 4 << 20, kPage = 4096;

void will_be_written(void* memory, int64_t bytes) {
#if defined(__linux__)
  if (memory == nullptr || bytes < kLarge) return;
  const uintptr_t begin = reinterpret_cast<uintptr_t>(memory);
  const uintptr_t first = (begin + kPage - 1) / kPage * kPage;
  const uintptr_t last = (begin + uintptr_t(bytes)) / kPage * kPage;
  madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#else
  (void)memory;
  (void)bytes;
#endif
}

int64_t bytes_of(const Problem& p) {
  const int64_t each = p.type == Type::f64 ? 8 : p.type == Type::f32 ? 4 : 2;
  return p.N * p.I * p.C * p.S * each;
}

template <class P> P* pointer(uintptr_t address) { return reinterpret_cast<P*>(address); }

Problem problem(int64_t N, int64_t C, int64_t G, int64_t S, bool channels_last, int type,
                int activation, double eps, int threads, bool parameters_as_input) {
  Problem p{};
  p.N = N;
  p.C = C;
  p.G = G;
  p.S = S;
  p.I = 1;
  p.channels_last = channels_last;
  p.type = static_cast<Type>(type);
  p.activation = static_cast<Activation>(activation);
  p.eps = eps;
  p.threads = parallel_for == nullptr ? 1 : threads;
  p.parallel = parallel_for;
  p.parameters_as_input = parameters_as_input;
  return p;
}

// True where the sum of squares of a group is not finite: then the output is not to be used, unless
// the input is not finite either.
bool forward(int64_t N, int64_t C, int64_t G, int64_t S, bool channels_last, int type,
             int activation, double eps, int threads, bool parameters_as_input, uintptr_t x,
             uintptr_t residual, uintptr_t weight, uintptr_t bias, uintptr_t y, uintptr_t mean,
             uintptr_t rstd) {
  Problem p = problem(N, C, G, S, channels_last, type, activation, eps, threads,
                      parameters_as_input);
  p.x = pointer<const void>(x);
  p.residual = pointer<const void>(residual);
  p.weight = pointer<const void>(weight);
  p.bias = pointer<const void>(bias);
  p.y = pointer<void>(y);
  p.mean = pointer<void>(mean);
  p.rstd = pointer<void>(rstd);
  bool overflowed = false;
  p.overflowed = &overflowed;
  nb::gil_scoped_release unlocked;
  will_be_written(p.y, bytes_of(p));
  kernels.forward(p);
  return overflowed;
}

// Whether a group is so spread out that its gradients would leave the range of W on the way.
template <class W> bool out_of_range(const Problem& p, W least) {
  const W* rstd = static_cast<const W*>(p.rstd);
  for (int64_t i = 0; i < p.N * p.G; ++i)
    if (rstd[i] > 0 && rstd[i] < least) return true;
  return false;
}

bool out_of_range(const Problem& p) {
  return p.type == Type::f64 ? out_of_range<double>(p, 0x1p-480)
                             : out_of_range<float>(p, 0x1p-44f);
}

// True, and nothing is computed, where a group is out of range: see `out_of_range`.
bool backward(int64_t N, int64_t C, int64_t G, int64_t S, bool channels_last, int type,
              int activation, double eps, int threads, bool parameters_as_input, uintptr_t x,
              uintptr_t residual, uintptr_t weight, uintptr_t bias, uintptr_t mean, uintptr_t rstd,
              uintptr_t dy, uintptr_t dx, uintptr_t dresidual, uintptr_t dweight,
              uintptr_t dbias) {
  Problem p = problem(N, C, G, S, channels_last, type, activation, eps, threads,
                      parameters_as_input);
  p.x = pointer<const void>(x);
  p.residual = pointer<const void>(residual);
  p.weight = pointer<const void>(weight);
  p.bias = pointer<const void>(bias);
  p.mean = pointer<void>(mean);
  p.rstd = pointer<void>(rstd);
  p.dy = pointer<const void>(dy);
  p.dx = pointer<void>(dx);
  p.dresidual = pointer<void>(dresidual);
  p.dweight = pointer<void>(dweight);
  p.dbias = pointer<void>(dbias);
  if (out_of_range(p)) return true;
  nb::gil_scoped_release unlocked;
  will_be_written(p.dx, bytes_of(p));
  will_be_written(p.dresidual, bytes_of(p));
  kernels.backward(p);
  return false;
}

// ---- batch norm: N chunks of I images, statistics of each chunk ---------------------------------

Problem chunks(int64_t N, int64_t I, int64_t C, int64_t S, bool channels_last, int type, double eps,
               int threads, uintptr_t x, uintptr_t weight, uintptr_t bias, uintptr_t mean,
               uintptr_t rstd) {
  Problem p = problem(N, C, C, channels_last ? I * S : S, channels_last, type,
                      static_cast<int>(Activation::none), eps, threads, false);
  if (!channels_last) p.I = I;
  p.x = pointer<const void>(x);
  p.weight = pointer<const void>(weight);
  p.bias = pointer<const void>(bias);
  p.mean = pointer<void>(mean);
  p.rstd = pointer<void>(rstd);
  return p;
}

// Moves running statistics (C) towards the chunks' mean of means and of unbiased variances.
template <class W>
void move_running(const Problem& p, uintptr_t running_mean, uintptr_t running_var, double weight) {
  const W* mean = static_cast<const W*>(p.mean);
  const W* var = static_cast<const W*>(p.var);
  W* means = pointer<W>(running_mean);
  W* vars = pointer<W>(running_var);
  const double values = double(p.I * p.S), chunks = double(p.N);
  for (int64_t c = 0; c < p.C; ++c) {
    double m = 0, v = 0;
    for (int64_t n = 0; n < p.N; ++n) {
      m += double(mean[n * p.C + c]);
      v += double(var[n * p.C + c]);
    }
    v *= values / (values - 1);
    means[c] = W(double(means[c]) + weight * (m / chunks - double(means[c])));
    vars[c] = W(double(vars[c]) + weight * (v / chunks - double(vars[c])));
  }
}

// Running statistics of the accumulation type, or 0 for none. True as in `forward`; then they stay.
bool batch_norm_forward(int64_t N, int64_t I, int64_t C, int64_t S, bool channels_last, int type,
                        double eps, int threads, uintptr_t x, uintptr_t weight, uintptr_t bias,
                        uintptr_t y, uintptr_t mean, uintptr_t rstd, uintptr_t var,
                        uintptr_t running_mean, uintptr_t running_var, double momentum) {
  Problem p = chunks(N, I, C, S, channels_last, type, eps, threads, x, weight, bias, mean, rstd);
  p.y = pointer<void>(y);
  p.var = pointer<void>(var);
  bool overflowed = false;
  p.overflowed = &overflowed;
  nb::gil_scoped_release unlocked;
  will_be_written(p.y, bytes_of(p));
  kernels.forward(p);
  if (overflowed || running_mean == 0) return overflowed;
  if (p.type == Type::f64) move_running<double>(p, running_mean, running_var, momentum);
  else move_running<float>(p, running_mean, running_var, momentum);
  return false;
}

bool batch_norm_backward(int64_t N, int64_t I, int64_t C, int64_t S, bool channels_last, int type,
                         int threads, uintptr_t x, uintptr_t weight, uintptr_t mean, uintptr_t rstd,
                         uintptr_t dy, uintptr_t dx, uintptr_t dweight, uintptr_t dbias) {
  Problem p = chunks(N, I, C, S, channels_last, type, 0, threads, x, weight, 0, mean, rstd);
  p.dy = pointer<const void>(dy);
  p.dx = pointer<void>(dx);
  p.dweight = pointer<void>(dweight);
  p.dbias = pointer<void>(dbias);
  if (out_of_range(p)) return true;
  nb::gil_scoped_release unlocked;
  will_be_written(p.dx, bytes_of(p));
  kernels.backward(p);
  return false;
}

void activate(int activation, uintptr_t z, uintptr_t value, uintptr_t slope, int64_t count) {
  kernels.activate(static_cast<Activation>(activation), pointer<const float>(z),
                   pointer<float>(value), pointer<float>(slope), count);
}

std::vector<std::string> instruction_sets() {
  std::vector<std::string> names;
  for (const Kernels& k : all_kernels) names.emplace_back(k.name);
  return names;
}

void set_instruction_set(const std::string& name) {
  for (const Kernels& k : all_kernels)
    if (name == k.name) {
      kernels = k;
      return;
    }
  throw nb::value_error(("this processor has no kernels named " + name).c_str());
}

}  // namespace

NB_MODULE(_native, m) {
  using nb::arg;
  m.doc() = "Group normalization on the CPU; in the package native/launch.py alone calls it.";
  m.def("forward", &forward, arg("num_samples"), arg("num_channels"), arg("num_groups"),
        arg("num_positions"), arg("channels_last"), arg("type"), arg("activation"), arg("eps"),
        arg("threads"), arg("parameters_as_input"), arg("x"), arg("residual"), arg("weight"),
        arg("bias"), arg("y"), arg("mean"), arg("rstd"));
  m.def("backward", &backward, arg("num_samples"), arg("num_channels"), arg("num_groups"),
        arg("num_positions"), arg("channels_last"), arg("type"), arg("activation"), arg("eps"),
        arg("threads"), arg("parameters_as_input"), arg("x"), arg("residual"), arg("weight"),
        arg("bias"), arg("mean"), arg("rstd"), arg("dy"), arg("dx"), arg("dresidual"),
        arg("dweight"), arg("dbias"));
  m.def("batch_norm_forward", &batch_norm_forward, arg("num_chunks"), arg("images"),
        arg("num_channels"), arg("num_positions"), arg("channels_last"), arg("type"), arg("eps"),
        arg("threads"), arg("x"), arg("weight"), arg("bias"), arg("y"), arg("mean"), arg("rstd"),
        arg("var"), arg("running_mean"), arg("running_var"), arg("momentum"));
  m.def("batch_norm_backward", &batch_norm_backward, arg("num_chunks"), arg("images"),
        arg("num_channels"), arg("num_positions"), arg("channels_last"), arg("type"),
        arg("threads"), arg("x"), arg("weight"), arg("mean"), arg("rstd"), arg("dy"), arg("dx"),
        arg("dweight"), arg("dbias"));
  m.def("activate", &activate, arg("activation"), arg("z"), arg("value"), arg("slope"),
        arg("count"), "Value and slope of an activation, for the tests.");
  m.def("instruction_sets", &instruction_sets, "Those of this processor, the fastest first.");
  m.def("instruction_set", [] { return std::string(kernels.name); }, "The one in use.");
  m.def("set_instruction_set", &set_instruction_set);
  m.def("set_parallel_for", [](uintptr_t address) {
    parallel_for = reinterpret_cast<groupnorm::ParallelFor>(address);
  });
}
