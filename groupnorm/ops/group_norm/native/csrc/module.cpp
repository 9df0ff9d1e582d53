// The Python module: chooses the instruction set, reads the tensors and calls a kernel. What does
// not fit as it is gives None: native/launch.py checks and converts it, or computes it otherwise.
#include "tensors.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <vector>

using namespace groupnorm;

namespace {

struct Kernels {
  const char* name;
  void (*forward)(const Problem&);
  void (*backward)(const Problem&);
};

#define GN_KERNELS(isa) Kernels{#isa, isa::forward, isa::backward}

// What this processor runs, the fastest last.
std::vector<Kernels> available() {
  std::vector<Kernels> found{GN_KERNELS(portable)};
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return found;
  found.push_back(GN_KERNELS(avx2));
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl"))
    return found;
  found.push_back(GN_KERNELS(avx512));
#if defined(GN_AVX512_BF16)
  if (__builtin_cpu_supports("avx512bf16")) found.push_back(GN_KERNELS(avx512_bf16));
#endif
#endif
  return found;
}

// Of the last-level cache that this processor's cores share, or 0; sysconf() gives that of all.
int64_t read_cache_bytes() {
  long kilobytes = 0;
  if (FILE* file = std::fopen("/sys/devices/system/cpu/cpu0/cache/index3/size", "r")) {
    if (std::fscanf(file, "%ldK", &kilobytes) != 1) kilobytes = 0;
    std::fclose(file);
  }
  return int64_t(kilobytes) << 10;
}
int64_t cache_bytes = read_cache_bytes();
const std::vector<Kernels> all_kernels = available();
Kernels kernels = all_kernels.back();
ParallelFor parallel_for = nullptr;

PyObject* none() {
  PyErr_Clear();
  Py_RETURN_NONE;
}

// A call from Python: tensors by position, numbers by keyword in a fixed order.
struct Call {
  View views[6];  // input, weight, bias, residual, and two of either direction
  const View &x = views[0], &residual = views[3];
  Problem p{};
  bool batch_norm, flag;

  // False, perhaps with an exception, where something is not what a kernel takes.
  bool read(PyObject* const* args, Py_ssize_t tensors, PyObject* keys, const char* flag_name) {
    const char* const names[] = {"num_groups", "images", "activation", "threads", "eps", flag_name};
    double n[6];
    if (tensors > 6 || keys == nullptr || PyTuple_GET_SIZE(keys) != 6) return false;
    if (!PyIndex_Check(args[tensors])) return false;
    for (int i = 0; i < 6; ++i) {
      n[i] = PyFloat_AsDouble(args[tensors + i]);
      if (PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(keys, i), names[i]) != 0 ||
          (n[i] == -1 && PyErr_Occurred()))
        return false;
    }
    for (Py_ssize_t i = 0; i < tensors; ++i)
      if (!views[i].read(args[i])) return false;
    if (x.object == nullptr || x.t.ndim < 2) return false;
    batch_norm = n[1] > 0;  // of chunks of so many images
    flag = n[5] != 0;
    p.I = batch_norm ? int64_t(n[1]) : 1;
    p.N = x.t.shape[0] / p.I;
    p.C = x.t.shape[1];
    p.G = int64_t(n[0]);
    p.S = x.count / x.t.shape[0] / p.C;
    if (p.G != n[0] || p.G < 1 || p.C % p.G || x.t.shape[0] % p.I) return false;
    p.channels_last = x.channels_last || (batch_norm && p.S == 1);
    if (p.channels_last) p.S *= p.I, p.I = 1;
    p.type = x.type;
    p.activation = Activation(int(n[2]));
    p.parallel = parallel_for;
    p.threads = parallel_for == nullptr ? 1 : int(n[3]);
    p.eps = n[4];
    p.cache_bytes = cache_bytes;
    const View &weight = views[1], &bias = views[2], &first = weight.object ? weight : bias;
    p.parameters_as_input = first.object == nullptr || first.type == x.type;
    const Type type = p.parameters_as_input ? x.type : accumulation(x.type);
    for (const View* v : {&weight, &bias})
      if (v->object && (v->t.ndim != 1 || v->count != p.C || v->type != type)) return false;
    p.x = x.t.data;
    p.weight = weight.t.data;
    p.bias = bias.t.data;
    p.residual = residual.t.data;
    return residual.object == nullptr || residual.is_like(x);
  }

  // The statistics of each group in one tensor: three, but for batch norm's backward pass two.
  void set_statistics(void* memory, bool backward) {
    const int64_t size = p.N * p.G * size_of(accumulation(p.type));
    p.mean = memory;
    p.rstd = static_cast<char*>(memory) + size;
    if (!batch_norm) p.residual_mean = static_cast<char*>(memory) + 2 * size;
    else if (!backward) p.var = static_cast<char*>(memory) + 2 * size;
  }

  // Without the interpreter's lock, unless the tensor is so small that giving it back costs more.
  // A large output is new memory most of the time, and its first touch faults page by page: ask for
  // huge pages (about half the time of such a pass). A hint, on Linux alone.
  void run(void (*kernel)(const Problem&), std::initializer_list<void*> outputs) {
    const int64_t bytes = x.bytes();
    PyThreadState* unlocked = bytes > (256 << 10) ? PyEval_SaveThread() : nullptr;
#if defined(__linux__)
    constexpr uintptr_t page = 4096;
    for (void* output : outputs)
      if (output != nullptr && bytes >= (4 << 20))
        madvise(reinterpret_cast<void*>((uintptr_t(output) + page - 1) / page * page),
                uintptr_t(bytes) / page * page - page, MADV_HUGEPAGE);
#endif
    kernel(p);
    if (unlocked != nullptr) PyEval_RestoreThread(unlocked);
  }
};

// (input, weight, bias, residual, out): y, or the pair of it and mean, rstd and what rounding of the
// mean left (of batch norm: the variance), (3, N, G) in one axis. If a sum of squares overflows, None,
// but with `out` the pair.
PyObject* forward(PyObject*, PyObject* const* args, Py_ssize_t tensors, PyObject* keys) {
  Call call;
  Problem& p = call.p;
  const View &x = call.x, &out = call.views[4];
  if (!call.read(args, tensors, keys, "with_statistics") || out.shares_memory(call.views[1]) ||
      out.shares_memory(call.views[2]) || (out.object && !out.is_like(x)))
    return none();
  for (const View* v : {&x, &call.residual})
    if (out.shares_memory(*v) && out.t.data != v->t.data) return none();
  bool overflowed = false;
  p.overflowed = &overflowed;
  p.y = out.t.data;
  Object y(Py_XNewRef(out.object)), statistics;
  if (!y && !(y = new_like(x, &p.y))) return nullptr;
  const int64_t size = 3 * p.N * p.G;
  std::vector<double> unseen(call.flag || !out.object ? 0 : size);
  void* memory = unseen.data();
  if (call.flag && !(statistics = new_sums(x, size, &memory))) return nullptr;
  if (call.flag || out.object) call.set_statistics(memory, false);
  call.run(kernels.forward, {out.object ? nullptr : p.y});
  if (overflowed && !out.object) return none();
  if (overflowed && !call.flag) {
    if (!(statistics = new_sums(x, size, &memory))) return nullptr;
    std::memcpy(memory, unseen.data(), size * size_of(accumulation(p.type)));
  }
  return call.flag || overflowed ? PyTuple_Pack(2, y.get(), statistics.get()) : y.release();
}

// Whether a group is so spread out that its gradients would leave the range of W on the way.
template <class W> bool out_of_range(const Problem& p, W least) {
  const W* rstd = static_cast<const W*>(p.rstd);
  return std::any_of(rstd, rstd + p.N * p.G, [&](W r) { return r > 0 && r < least; });
}

// (input, weight, bias, residual, grad_output, statistics): dx, dweight, dbias, and dresidual if it
// is needed; None where a group is out of range.
PyObject* backward(PyObject*, PyObject* const* args, Py_ssize_t tensors, PyObject* keys) {
  Call call;
  Problem& p = call.p;
  const View &dy = call.views[4], &statistics = call.views[5];
  if (!call.read(args, tensors, keys, "needs_residual") || !dy.is_like(call.x) ||
      statistics.type != accumulation(p.type) || statistics.channels_last ||
      statistics.count != (call.batch_norm ? 2 : 3) * p.N * p.G)
    return none();
  call.set_statistics(statistics.t.data, true);
  if (p.type == Type::f64 ? out_of_range<double>(p, 0x1p-480) : out_of_range<float>(p, 0x1p-44f))
    return none();
  p.dy = dy.t.data;
  Object dx = new_like(call.x, &p.dx), dresidual(Py_NewRef(Py_None));
  Object dweight = new_sums(call.x, p.C, &p.dweight), dbias = new_sums(call.x, p.C, &p.dbias);
  if (call.flag) dresidual = new_like(call.x, &p.dresidual);
  if (!dx || !dweight || !dbias || !dresidual) return nullptr;
  call.run(kernels.backward, {p.dx, p.dresidual});
  return PyTuple_Pack(4, dx.get(), dweight.get(), dbias.get(), dresidual.get());
}

// Names of those of this processor, the fastest last.
PyObject* instruction_sets(PyObject*, PyObject*) {
  PyObject* names = PyTuple_New(Py_ssize_t(all_kernels.size()));
  for (size_t i = 0; i < all_kernels.size(); ++i)
    PyTuple_SET_ITEM(names, Py_ssize_t(i), PyUnicode_FromString(all_kernels[i].name));
  return names;
}

PyObject* instruction_set(PyObject*, PyObject*) { return PyUnicode_FromString(kernels.name); }

PyObject* set_instruction_set(PyObject*, PyObject* name) {
  for (const Kernels& k : all_kernels)
    if (PyUnicode_CompareWithASCIIString(name, k.name) == 0) return kernels = k, none();
  return PyErr_Format(PyExc_ValueError, "this processor has no kernels named %U", name);
}

PyObject* set_parallel_for(PyObject*, PyObject* address) {
  parallel_for = reinterpret_cast<ParallelFor>(PyLong_AsVoidPtr(address));
  return none();
}

// For the tests: from this size on stores go past the cache. Gives what it was.
PyObject* set_cache_bytes(PyObject*, PyObject* bytes) {
  const int64_t before = cache_bytes;
  cache_bytes = PyLong_AsLongLong(bytes);
  return PyErr_Occurred() ? nullptr : PyLong_FromLongLong(before);
}

// A capsule, or None for the other way. Of the words of the API (version, an older API, functions)
// the sixth is the function that is used here.
PyObject* set_exchange_api(PyObject*, PyObject* capsule) {
  void* api = PyCapsule_GetPointer(capsule, "dlpack_exchange_api");
  const bool known = api != nullptr && *static_cast<uint32_t*>(api) == 1;
  void* function = known ? static_cast<void**>(api)[5] : nullptr;
  torch.exchange = reinterpret_cast<decltype(torch.exchange)>(function);
  return none();
}

#define GN_METHOD(f, flags) \
  PyMethodDef { #f, reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(f)), flags, "" }
PyMethodDef functions[] = {GN_METHOD(forward, METH_FASTCALL | METH_KEYWORDS),
                           GN_METHOD(backward, METH_FASTCALL | METH_KEYWORDS),
                           GN_METHOD(instruction_sets, METH_NOARGS),
                           GN_METHOD(instruction_set, METH_NOARGS),
                           GN_METHOD(set_instruction_set, METH_O),
                           GN_METHOD(set_parallel_for, METH_O),
                           GN_METHOD(set_exchange_api, METH_O),
                           GN_METHOD(set_cache_bytes, METH_O),
                           {}};
PyModuleDef definition{PyModuleDef_HEAD_INIT, "_native", "", -1, functions, {}, {}, {}, {}};

}  // namespace

PyMODINIT_FUNC PyInit__native() {
  PyObject* module = PyImport_ImportModule("torch");
  if (module == nullptr) return nullptr;
  auto get = [](PyObject* from, const char* name) { return PyObject_GetAttrString(from, name); };
  PyObject *tensor = get(module, "Tensor"), *storage = get(module, "UntypedStorage");
  torch = {tensor, get(get(module, "nn"), "Parameter"), get(module, "float32"),
           get(module, "float64"), Py_BuildValue("(s)", "dtype"), get(module, "empty_like"),
           get(tensor, "new_empty"), get(get(module, "_C"), "_to_dlpack"), get(tensor, "is_neg"),
           get(tensor, "untyped_storage"), get(storage, "nbytes"), get(tensor, "storage_offset"),
           get(tensor, "data_ptr"), nullptr};
  if (PyErr_Occurred()) return nullptr;  // a PyTorch that has not all of these
  return PyModule_Create(&definition);
}
