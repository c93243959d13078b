#include "layout.h"

namespace pocketvlm {

std::vector<LayoutPiece> laid_out(const ImageLayout& layout, const Grid& grid, std::optional<int64_t> thumbnail) {
  const auto [across, down] = grid;
  std::vector<LayoutPiece> pieces{{layout.image_start, false}};
  if (thumbnail == 0) pieces.push_back({layout.thumbnail, true});
  if (across * down == 1 && !thumbnail && layout.lone) {
    pieces.push_back({*layout.lone, true});
  } else {
    for (size_t row = 0; row < size_t(down); row++) {
      for (size_t column = 0; column < size_t(across); column++) pieces.push_back({layout.tile[row][column], true});
      const bool last = row + 1 == size_t(down) && layout.last_row_end;
      pieces.push_back({last ? *layout.last_row_end : layout.row_end, false});
    }
  }
  if (thumbnail && *thumbnail > 0) pieces.push_back({layout.thumbnail, true});
  pieces.push_back({layout.image_end, false});
  return pieces;
}

}  // namespace pocketvlm
