#include "library.h"

#include <dlfcn.h>

#include <climits>
#include <cstdlib>
#include <mutex>

#include "error.h"

namespace pocketvlm {
namespace {

using GetBase = const OrtApiBase* (*)();

Library load(const std::string& file) {
  // Before the library is there: it would otherwise keep a database and a device id below $HOME.
  setenv("ORT_DISABLE_TELEMETRY", "1", 1);
  void* handle = nullptr;
  std::string why;
  const char* names[] = {"libonnxruntime.so.1", "libonnxruntime.so"};
  for (const char* name : names) {
    handle = dlopen(file.empty() ? name : file.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (handle != nullptr || !file.empty()) break;
  }
  if (handle == nullptr) why = dlerror();
  void* symbol = handle == nullptr ? nullptr : dlsym(handle, "OrtGetApiBase");
  if (symbol == nullptr)
    throw Error(Failure::library,
                "ONNX Runtime cannot be opened: " + one_line(why.empty() ? "it has no OrtGetApiBase" : why, 200));
  const OrtApiBase* base = reinterpret_cast<GetBase>(symbol)();
  const OrtApi* api = base->GetApi(ORT_API_VERSION);
  const std::string version = one_line(base->GetVersionString(), 40);
  if (api == nullptr)
    throw Error(Failure::library, "ONNX Runtime " + version + " is too old: 1." + std::to_string(ORT_API_VERSION) +
                                      " or newer is needed");
  Ort::InitApi(api);
  Dl_info info;
  char whole[PATH_MAX];
  const bool known = dladdr(symbol, &info) != 0 && realpath(info.dli_fname, whole) != nullptr;
  try {
    // What it would log comes as an exception as well.
    auto* env = new Ort::Env(ORT_LOGGING_LEVEL_FATAL, "pocketvlm");
    env->DisableTelemetryEvents();
    return {known ? whole : file, version, env};
  } catch (const Ort::Exception& error) {
    throw Error(Failure::library, "ONNX Runtime " + version + " does not start: " + one_line(error.what(), 200));
  }
}

}  // namespace

const Library& open_library(const std::string& file) {
  static std::mutex opening;
  static const Library* opened = nullptr;
  const std::lock_guard<std::mutex> lock(opening);
  if (opened == nullptr) opened = new Library(load(file));
  return *opened;
}

}  // namespace pocketvlm
