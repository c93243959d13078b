// What all sessions of ONNX Runtime have in common.
#pragma once

#include <map>
#include <new>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "error.h"
#include "library.h"

namespace pocketvlm {

// How many elements a shape has. std::length_error, where that is more than memory can hold.
size_t elements(const std::vector<int64_t>& shape);

const Ort::MemoryInfo& cpu();

// Memory that is there, as a value of ONNX Runtime's.
template <typename Element>
Ort::Value tensor(Element* data, const std::vector<int64_t>& shape) {
  return Ort::Value::CreateTensor<Element>(cpu(), data, elements(shape), shape.data(), shape.size());
}

// The same of what is only read.
template <typename Element>
Ort::Value constant(const Element* data, const std::vector<int64_t>& shape) {
  return tensor(const_cast<Element*>(data), shape);
}

// An exception of ONNX Runtime's as one line, with the failure that it is of: `failure`, unless it lacks an operator.
Error clear_error(const std::string& what, Failure failure, const Ort::Exception& error);

template <typename Work>
auto clear_errors(const std::string& what, Failure failure, Work work) -> decltype(work()) {
  try {
    return work();
  } catch (const Ort::Exception& error) {
    throw clear_error(what, failure, error);
  } catch (const std::bad_alloc&) {
    throw Error(Failure::other, what + ": not enough memory");
  } catch (const std::length_error&) {
    throw Error(Failure::other, what + ": not enough memory");
  }
}

// Threads, silence, and sums that do not saturate on this CPU.
Ort::SessionOptions session_options(int threads);

// Element type and shape of an input or output; -1 is a size that varies.
struct Kind {
  ONNXTensorElementDataType type;
  std::vector<int64_t> shape;
};
using Interface = std::map<std::string, Kind>;
inline constexpr auto kFloat = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
inline constexpr auto kInt64 = ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;
inline constexpr auto kInt32 = ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32;
inline constexpr auto kInt8 = ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8;

// A session must have these inputs and outputs, and no other input. Failure: bundle, naming `file`.
void check_interface(const std::string& file, const Ort::Session& session, const Interface& inputs,
                     const Interface& outputs);

// What was freed goes back to the system.
void return_freed_memory();

}  // namespace pocketvlm
