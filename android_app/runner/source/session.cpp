#include "session.h"

#ifdef __GLIBC__
#include <malloc.h>
#endif

#include <fstream>
#include <sstream>

namespace pocketvlm {
namespace {

#if defined(__x86_64__)
// Whether this CPU multiplies bytes and adds them in 32 bits (pocketvlm/machine/exact_sums.py).
bool has_exact_kernels() {
  std::ifstream cpuinfo("/proc/cpuinfo");
  for (std::string line, word; std::getline(cpuinfo, line);) {
    if (line.compare(0, 5, "flags") != 0) continue;
    std::istringstream words(line);
    while (words >> word)
      if (word == "avx512_vnni" || word == "avx_vnni") return true;
    return false;
  }
  return false;
}
#endif

Kind kind_of(const Ort::TypeInfo& info) {
  if (info.GetONNXType() != ONNX_TYPE_TENSOR) return {ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED, {}};
  const auto tensor_info = info.GetTensorTypeAndShapeInfo();
  return {tensor_info.GetElementType(), tensor_info.GetShape()};
}

void check_values(const std::string& file, const std::string& direction, const Interface& wanted,
                  const Interface& found) {
  for (const auto& [name, kind] : wanted) {
    const auto value = found.find(name);
    if (value == found.end())
      throw Error(Failure::bundle, file + " has no " + direction + " '" + name + "': export the bundle again");
    const std::vector<int64_t>& shape = value->second.shape;
    bool same = value->second.type == kind.type && shape.size() == kind.shape.size();
    for (size_t i = 0; same && i < shape.size(); i++) same = kind.shape[i] < 0 || kind.shape[i] == shape[i];
    if (!same) throw Error(Failure::bundle, file + ": " + direction + " '" + name + "' is not what the manifest says");
  }
  if (direction == "output") return;
  for (const auto& [name, kind] : found)
    if (wanted.count(name) == 0)
      throw Error(Failure::bundle, file + " has an unknown input '" + one_line(name, 80) + "': update this program");
}

}  // namespace

size_t elements(const std::vector<int64_t>& shape) {
  int64_t count = 1;
  for (const int64_t size : shape)
    if (__builtin_mul_overflow(count, size, &count)) throw std::length_error("a tensor is too large");
  return size_t(count);
}

const Ort::MemoryInfo& cpu() {
  static const auto* info = new Ort::MemoryInfo(Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeDefault));
  return *info;
}

Error clear_error(const std::string& what, Failure failure, const Ort::Exception& error) {
  const std::string_view said = error.what();
  const bool unknown = error.GetOrtErrorCode() == ORT_NOT_IMPLEMENTED ||
                       said.find("is not a registered function/op") != std::string_view::npos ||
                       said.find("No Op registered for") != std::string_view::npos;
  return Error(unknown ? Failure::other : failure, what + " failed in ONNX Runtime: " + one_line(said));
}

Ort::SessionOptions session_options(int threads) {
  Ort::SessionOptions options;
  options.SetIntraOpNumThreads(threads);
  options.SetInterOpNumThreads(1);
  options.SetLogSeverityLevel(ORT_LOGGING_LEVEL_FATAL);
#if defined(__x86_64__)
  options.AddConfigEntry("session.x64quantprecision", has_exact_kernels() ? "0" : "1");
#endif
  return options;
}

void check_interface(const std::string& file, const Ort::Session& session, const Interface& inputs,
                     const Interface& outputs) {
  const Ort::AllocatorWithDefaultOptions allocator;
  Interface found_inputs, found_outputs;
  for (size_t i = 0; i < session.GetInputCount(); i++)
    found_inputs[session.GetInputNameAllocated(i, allocator).get()] = kind_of(session.GetInputTypeInfo(i));
  for (size_t i = 0; i < session.GetOverridableInitializerCount(); i++)
    found_inputs[session.GetOverridableInitializerNameAllocated(i, allocator).get()] =
        kind_of(session.GetOverridableInitializerTypeInfo(i));
  for (size_t i = 0; i < session.GetOutputCount(); i++)
    found_outputs[session.GetOutputNameAllocated(i, allocator).get()] = kind_of(session.GetOutputTypeInfo(i));
  check_values(file, "input", inputs, found_inputs);
  check_values(file, "output", outputs, found_outputs);
}

void return_freed_memory() {
#ifdef __GLIBC__
  malloc_trim(0);
#endif
}

}  // namespace pocketvlm
