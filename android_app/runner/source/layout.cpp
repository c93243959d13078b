#include "layout.h"

#include "error.h"

namespace pocketvlm {
namespace {

// image_start, and behind it the image's number.
TokenIds numbered_start(const ImageLayout& layout, size_t number) {
  TokenIds start = layout.image_start;
  if (!layout.numbers) return start;
  if (number >= layout.numbers->size())
    throw Error(Failure::misfit, "this bundle has numbers for " + std::to_string(layout.numbers->size()) +
                                     " images of a conversation, not for more");
  const TokenIds& ids = (*layout.numbers)[number];
  start.insert(start.end(), ids.begin(), ids.end());
  return start;
}

}  // namespace

std::vector<LayoutPiece> laid_out(const ImageLayout& layout, const Grid& grid, std::optional<int64_t> thumbnail,
                                  const std::vector<int64_t>& tokens, std::optional<int64_t> packed, size_t number) {
  const TokenIds start = numbered_start(layout, number);
  if (packed) return {{start, *packed}, {layout.image_end, 0}};
  const auto [across, down] = grid;
  std::vector<LayoutPiece> pieces{{start, 0}};
  const auto end = [&pieces](const TokenIds& ids) {
    if (!ids.empty()) pieces.push_back({ids, 0});
  };
  auto next = tokens.begin();
  if (thumbnail == 0) pieces.push_back({layout.thumbnail, *next++}), end(layout.thumbnail_end);
  if (across * down == 1 && !thumbnail && layout.lone) {
    pieces.push_back({*layout.lone, *next++}), end(layout.thumbnail_end);
  } else {
    for (size_t row = 0; row < size_t(down); row++) {
      for (size_t column = 0; column < size_t(across); column++)
        pieces.push_back({layout.tile[row][column], *next++}), end(layout.tile_end);
      const bool last = row + 1 == size_t(down) && layout.last_row_end;
      pieces.push_back({last ? *layout.last_row_end : layout.row_end, 0});
    }
  }
  if (thumbnail && *thumbnail > 0) pieces.push_back({layout.thumbnail, *next++}), end(layout.thumbnail_end);
  pieces.push_back({layout.image_end, 0});
  return pieces;
}

}  // namespace pocketvlm
