// The token ids around an image's tiles: pocketvlm/images/layout.py.
#pragma once

#include <optional>
#include <vector>

#include "manifest.h"

namespace pocketvlm {

// Tokens, and how many image tokens follow.
struct LayoutPiece {
  TokenIds around;
  int64_t rows;
};

// Of an image that is cut into `grid`, whose thumbnail is at this place of its tiles, in order. Of one that is `packed`
// there are so many image tokens, and nothing stands between them. `tokens`: of each tile in sequence order; `number`: of
// images before it in the conversation. Failure: misfit, where the layout has no number for it.
std::vector<LayoutPiece> laid_out(const ImageLayout& layout, const Grid& grid, std::optional<int64_t> thumbnail,
                                  const std::vector<int64_t>& tokens, std::optional<int64_t> packed = std::nullopt,
                                  size_t number = 0);

}  // namespace pocketvlm
