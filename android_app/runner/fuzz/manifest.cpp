// libFuzzer: any bytes as a manifest are read or refused with an Error.
#include "manifest.h"

#include <cstdint>

#include "error.h"
#include "images.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const pocketvlm::Manifest manifest =
        pocketvlm::parse_manifest({reinterpret_cast<const char*>(data), size}, "manifest.json");
    if (manifest.vision) pocketvlm::check_vision(*manifest.vision, *manifest.layout);
  } catch (const pocketvlm::Error&) {
  }
  return 0;
}
