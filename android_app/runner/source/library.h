// ONNX Runtime as a shared library that is opened while the program runs, never linked: any version from 1.21 on will
// do.
#pragma once

#define ORT_API_MANUAL_INIT
#include <onnxruntime_cxx_api.h>

#include <string>

namespace pocketvlm {

struct Library {
  std::string path, version;
  Ort::Env* env;  // lives as long as the process
};

// Opens the library once in a process, its telemetry off; "" stands for libonnxruntime.so.1 where the loader finds it.
// Failure: library, where it cannot be opened or is too old.
const Library& open_library(const std::string& file);

}  // namespace pocketvlm
