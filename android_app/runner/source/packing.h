// The tokens of an image's tiles as one picture again: pocketvlm/images/packing.py, step by step.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "manifest.h"
#include "tiling.h"

namespace pocketvlm {

// What becomes of the tokens of `grid` tiles of `side` x `side`: those from `corner` on are kept, and resized to `size`;
// a learned one ends each row. Sizes are (across, down).
struct Packed {
  int64_t side;
  Grid grid;
  std::pair<int64_t, int64_t> corner;
  Size kept, size;
  int64_t tokens() const { return side * side + size.second * (size.first + 1); }
};

// Of an image of `size` pixels that was cut into `grid` tiles.
Packed packed(const Size& size, const Grid& grid, int64_t side, std::optional<int64_t> most_tiles);

// The tokens of all tiles [tiles * side * side, hidden], the thumbnail's first -> those of the image [tokens(), hidden].
std::vector<float> pack(const std::vector<float>& tokens, const Packed& plan, const std::vector<float>& newline);

}  // namespace pocketvlm
