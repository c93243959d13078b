// libFuzzer: any bytes as a graph name files or are refused with an Error.
#include <cstdint>

#include "bundle.h"
#include "graph_files.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    for (const std::string& name : pocketvlm::external_files({reinterpret_cast<const char*>(data), size}))
      pocketvlm::name_beside("folder/graph.onnx", name);
  } catch (const pocketvlm::Error&) {
  }
  return 0;
}
