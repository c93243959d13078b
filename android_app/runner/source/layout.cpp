#include "layout.h"

namespace pocketvlm {

std::vector<LayoutPiece> laid_out(const ImageLayout& layout, const Grid& grid, std::optional<int64_t> thumbnail,
                                  const std::vector<int64_t>& tokens, std::optional<int64_t> packed) {
  if (packed) return {{layout.image_start, *packed}, {layout.image_end, 0}};
  const auto [across, down] = grid;
  std::vector<LayoutPiece> pieces{{layout.image_start, 0}};
  auto next = tokens.begin();
  if (thumbnail == 0) pieces.push_back({layout.thumbnail, *next++});
  if (across * down == 1 && !thumbnail && layout.lone) {
    pieces.push_back({*layout.lone, *next++});
  } else {
    for (size_t row = 0; row < size_t(down); row++) {
      for (size_t column = 0; column < size_t(across); column++)
        pieces.push_back({layout.tile[row][column], *next++});
      const bool last = row + 1 == size_t(down) && layout.last_row_end;
      pieces.push_back({last ? *layout.last_row_end : layout.row_end, 0});
    }
  }
  if (thumbnail && *thumbnail > 0) pieces.push_back({layout.thumbnail, *next++});
  pieces.push_back({layout.image_end, 0});
  return pieces;
}

}  // namespace pocketvlm
