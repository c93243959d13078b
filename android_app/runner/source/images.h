// Pixels to tiles, bit for bit as pocketvlm/images/prepare.py and Pillow's filters make them.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "manifest.h"
#include "tiling.h"

namespace pocketvlm {

// Largest image or canvas: pixels, and pixels a side.
constexpr int64_t kMaxPixels = 64 * 1024 * 1024, kMaxSide = 16384;

// uint8 [height, width, 3]
struct Rgb {
  int64_t width, height;
  std::vector<uint8_t> pixels;
};

struct Tiles {
  Grid grid;
  std::optional<int64_t> thumbnail;  // its place in the sequence
  std::vector<Grid> seen;  // (across, down) of those that see each other, where a tower goes over several at once
  int64_t count;
  std::vector<uint8_t> pixels;  // uint8 [count, tile, tile, 3], in sequence order
};

// Failure: bundle, where the manifest's vision is out of this file's bounds, or its layout lacks a tile.
void check_vision(const Vision& vision, const ImageLayout& layout);

// uint8 [height, stride / 4, 4] with straight alpha, laid over white. Failure: usage, for a size that is out of bounds.
Rgb flatten(const uint8_t* rgba, int64_t width, int64_t height, int64_t stride);

// By the filter of this name.
Rgb resize(const Rgb& image, int64_t width, int64_t height, const std::string& filter);

Tiles cut_tiles(const Rgb& image, const Vision& vision);

// (x * rescale - mean) / std in float32: uint8 [tiles, tile, tile, 3] -> float32 [tiles, 3, tile, tile]
void normalize(const uint8_t* pixels, int64_t tiles, const Vision& vision, float* output);

}  // namespace pocketvlm
