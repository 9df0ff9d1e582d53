// Tensors of PyTorch as pointers and sizes, without PyTorch's headers: by DLPack's C exchange API,
// or by DLPack's capsules where PyTorch has no such API.
#pragma once

#include <Python.h>

#include <initializer_list>
#include <memory>
#include <utility>

#include "problem.h"

namespace groupnorm {

// As in DLPack 1 (github.com/dmlc/dlpack).
struct DLTensor {
  char* data;
  int32_t device_type, device_id, ndim;
  uint8_t code, bits;
  uint16_t lanes;
  int64_t *shape, *strides;
  uint64_t byte_offset;
};

struct Release {
  void operator()(PyObject* object) const { Py_XDECREF(object); }
};
using Object = std::unique_ptr<PyObject, Release>;

// What is needed of PyTorch: its two classes of plain memory, dtypes, functions of a tensor.
struct Torch {
  PyObject *tensor, *parameter, *float32, *float64, *dtype;
  PyObject *empty_like, *new_empty, *to_dlpack, *is_neg, *untyped_storage, *nbytes;
  PyObject *storage_offset, *data_ptr;
  int (*exchange)(void* object, DLTensor* out);  // the object keeps shape and strides; or null
};
inline Torch torch{};

// What a function of an object gives as an integer; -1 and an exception where it fails.
inline int64_t number(PyObject* function, PyObject* object) {
  const Object result(PyObject_CallOneArg(function, object));
  return result ? PyLong_AsLongLong(result.get()) : -1;
}

constexpr int64_t size_of(Type type) { return type == Type::f64 ? 8 : type == Type::f32 ? 4 : 2; }
constexpr Type accumulation(Type type) { return type == Type::f64 ? Type::f64 : Type::f32; }

// None, or a dense tensor on the CPU whose memory is all there.
struct View {
  PyObject* object = nullptr;  // null for None
  DLTensor t{};
  Type type{};
  bool channels_last = false;
  int64_t count = 0;

  // False, perhaps with an exception, unless it is one. Only PyTorch's own classes are looked into:
  // in another class the memory may mean something else.
  bool read(PyObject* given) {
    if (given == Py_None) return true;
    object = given;
    PyObject* of = reinterpret_cast<PyObject*>(Py_TYPE(given));
    return (of == torch.tensor || of == torch.parameter) && read_dlpack() && t.data != nullptr &&
           t.device_type == 1 && read_type() && is_dense() && has_memory();
  }
  int64_t bytes() const { return count * size_of(type); }

  // Whether it is as `other` in everything but its numbers.
  bool is_like(const View& other) const {
    bool same = type == other.type && t.ndim == other.t.ndim;
    for (int i = 0; same && i < t.ndim; ++i)
      same = t.shape[i] == other.t.shape[i] &&
             (t.shape[i] == 1 || t.strides[i] == other.t.strides[i]);
    return same;
  }
  bool shares_memory(const View& other) const {
    return object && other.object && t.data < other.t.data + other.bytes() &&
           other.t.data < t.data + bytes();
  }

 private:
  Object capsule_;  // keeps shape and strides where there is no exchange API

  bool read_dlpack() {
    if (torch.exchange != nullptr) return torch.exchange(object, &t) == 0;
    capsule_.reset(PyObject_CallOneArg(torch.to_dlpack, object));
    if (!capsule_) return false;
    t = *static_cast<DLTensor*>(PyCapsule_GetPointer(capsule_.get(), "dltensor"));
    return true;
  }

  bool read_type() {
    const bool brain = t.code == 4;
    type = brain ? Type::bf16 : t.bits == 64 ? Type::f64 : t.bits == 32 ? Type::f32 : Type::f16;
    return (brain || t.code == 2) && t.bits == 8 * size_of(type);
  }

  bool is_dense() {
    count = 1;
    for (int i = 0; i < t.ndim; ++i) count *= t.shape[i];
    channels_last = !has_order(false);
    return count > 0 && (!channels_last || (t.ndim > 2 && has_order(true)));
  }

  // Whether the axes lie in their order, or with the second innermost.
  bool has_order(bool channels_innermost) const {
    int64_t expected = 1;
    for (int i = t.ndim - 1; i >= 0; --i) {
      const int axis = !channels_innermost || i == 0 ? i : i == t.ndim - 1 ? 1 : i + 1;
      if (t.shape[axis] != 1 && t.strides[axis] != expected) return false;
      expected *= t.shape[axis];
    }
    return true;
  }

  // DLPack knows neither PyTorch's negative bit nor how much memory a storage has left.
  bool has_memory() const {
    if (Object(PyObject_CallOneArg(torch.is_neg, object)).get() != Py_False) return false;
    const Object storage(PyObject_CallOneArg(torch.untyped_storage, object));
    const int64_t held = storage ? number(torch.nbytes, storage.get()) : -1;
    const int64_t offset = number(torch.storage_offset, object);
    return offset >= 0 && held >= offset * size_of(type) + bytes();
  }
};

// A new tensor, or null with an exception; its address goes to `memory`.
inline Object addressed(PyObject* made, void** memory) {
  Object owned(made);
  if (made != nullptr) *memory = reinterpret_cast<void*>(number(torch.data_ptr, made));
  return PyErr_Occurred() ? nullptr : std::move(owned);
}

inline Object new_like(const View& x, void** memory) {
  return addressed(PyObject_CallOneArg(torch.empty_like, x.object), memory);
}

// `size` numbers of the accumulation type of x.
inline Object new_sums(const View& x, int64_t size, void** memory) {
  const Object number_of(PyLong_FromLongLong(size));
  PyObject* dtype = x.type == Type::f64 ? torch.float64 : torch.float32;
  PyObject* arguments[] = {x.object, number_of.get(), dtype};
  PyObject* keys = accumulation(x.type) == x.type ? nullptr : torch.dtype;
  return addressed(PyObject_Vectorcall(torch.new_empty, arguments, 2, keys), memory);
}

}  // namespace groupnorm
