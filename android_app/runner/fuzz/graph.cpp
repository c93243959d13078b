// libFuzzer: any bytes as a graph are one that exports write, or refused with an Error.
#include "graph.h"

#include <cstdint>

#include "error.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    pocketvlm::check_graph({reinterpret_cast<const char*>(data), size},
                           {{"batch", 1}, {"sequence", 128}, {"kept", 128}, {"total", 192}, {"tiles", 4}},
                           {{"text.data", 1 << 20}, {"vision.data", 1 << 20}});
  } catch (const pocketvlm::Error&) {
  }
  return 0;
}
