// ONNX Runtime whose QNN execution provider does what POCKETVLM_DRIVER says, as a phone's driver would: "works" leaves
// graphs to the CPU, "crash" and "hang" do so when it is asked for, "error" is the real library's own answer. The tests
// load it instead of the library that POCKETVLM_DRIVER_LIBRARY names; POCKETVLM_DRIVER_LOG gets a line each time.
#include <dlfcn.h>
#include <onnxruntime_c_api.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

namespace {

const OrtApiBase* real() {
  static void* library = dlopen(std::getenv("POCKETVLM_DRIVER_LIBRARY"), RTLD_NOW | RTLD_LOCAL);
  using GetBase = const OrtApiBase* (*)();
  static const OrtApiBase* base = reinterpret_cast<GetBase>(dlsym(library, "OrtGetApiBase"))();
  return base;
}

OrtStatus* ORT_API_CALL append_provider(OrtSessionOptions* options, const char* name, const char* const* keys,
                                        const char* const* values, size_t count) noexcept {
  const std::string does = std::getenv("POCKETVLM_DRIVER");
  if (const char* log = std::getenv("POCKETVLM_DRIVER_LOG"))
    if (std::FILE* file = std::fopen(log, "a")) {
      std::fprintf(file, "%s %s\n", name, does.c_str());
      std::fclose(file);
    }
  if (does == "crash") std::raise(SIGSEGV);
  while (does == "hang") pause();
  if (does == "works") return nullptr;
  return real()->GetApi(ORT_API_VERSION)->SessionOptionsAppendExecutionProvider(options, name, keys, values, count);
}

const OrtApi* ORT_API_CALL get_api(uint32_t version) noexcept {
  static OrtApi api;
  const OrtApi* given = real()->GetApi(version);
  if (given == nullptr) return nullptr;
  std::memcpy(&api, given, sizeof api);
  api.SessionOptionsAppendExecutionProvider = append_provider;
  return &api;
}

const char* ORT_API_CALL version_string() noexcept { return real()->GetVersionString(); }

}  // namespace

extern "C" __attribute__((visibility("default"))) const OrtApiBase* ORT_API_CALL OrtGetApiBase() noexcept {
  static const OrtApiBase base = {get_api, version_string};
  return &base;
}
