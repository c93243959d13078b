// The token ids around an image's tiles: pocketvlm/images/layout.py.
#pragma once

#include <optional>
#include <vector>

#include "manifest.h"

namespace pocketvlm {

// Tokens, and whether those of one tile follow.
struct LayoutPiece {
  TokenIds around;
  bool tile;
};

// Of an image that is cut into `grid`, whose thumbnail is at this place of its tiles, in order.
std::vector<LayoutPiece> laid_out(const ImageLayout& layout, const Grid& grid, std::optional<int64_t> thumbnail);

}  // namespace pocketvlm
