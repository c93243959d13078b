// Tiles to image tokens, the next tiles' patches embedded beside the encoder (arXiv 2411.10640, section 3.3).
#pragma once

#include <atomic>

#include "engine.h"
#include "images.h"

namespace pocketvlm {

// The tiles of one batch, uint8 [count, tile, tile, 3], as float32 [count, 3, tile, tile].
Floats normalized(const Vision& vision, const uint8_t* tiles, int64_t count);

// uint8 [count, tile, tile, 3] -> float32 [count * tokens per tile, hidden], at most `batch` tiles at a time.
// Failure: interrupted, where `cancelled` was set between two batches.
Floats encode_tiles(Engine& engine, const uint8_t* tiles, int64_t count, int64_t batch, bool pipelined,
                    const std::atomic<bool>& cancelled);

// A picture of native resolution: of its tiles `batch` at a time are embedded, and those that see each other encoded
// together, part by part -> float32 [tiles, entering width]. Failure: as above.
Floats encode_picture(Engine& engine, const NativeVision& native, const Tiles& tiles, int64_t batch,
                      const std::atomic<bool>& cancelled);

}  // namespace pocketvlm
