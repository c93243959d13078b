// libFuzzer: any bytes as a plan are read or refused with an Error, and fit a bundle or do not.
#include "plan.h"

#include <cstdint>

#include "error.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const pocketvlm::Plan plan = pocketvlm::parse_plan({reinterpret_cast<const char*>(data), size});
    pocketvlm::Manifest manifest{};
    manifest.vocab_size = 320, manifest.kv_length = 192, manifest.image_token = 7;
    manifest.vision = pocketvlm::Vision{};
    manifest.vision->tile_size = 72, manifest.vision->tokens_per_tile = int64_t{1} << 40;
    pocketvlm::check_fits(plan, manifest);
  } catch (const pocketvlm::Error&) {
  }
  return 0;
}
