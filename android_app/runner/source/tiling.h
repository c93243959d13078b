// What becomes of an image of some size: pocketvlm/images/rules in the same double arithmetic, step by step.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "manifest.h"

namespace pocketvlm {

using Size = std::pair<int64_t, int64_t>;  // width, height

// The image is laid in the middle of a `square` of so many pixels a side (0: of none), resized to each of `resizes` in turn, laid with its corner at `place` of a canvas of `grid` tiles (before it,
// where that is negative: what lies outside is left out), and cut there. A thumbnail, what the first `thumbnail_of` of the resizes made squashed to one tile, stands at `thumbnail`.
// By a rule of parts each place of the grid has `part` tiles (across, down), which see each other, and the thumbnail
// `thumbnail_part`.
struct PicturePlan {
  Grid grid;
  std::vector<Size> resizes;
  std::pair<int64_t, int64_t> place;
  std::optional<int64_t> thumbnail;
  size_t thumbnail_of = 0;
  Grid part{1, 1}, thumbnail_part{1, 1};
  int64_t square = 0;
  // Tiles that are cut, the thumbnail's not counted.
  Grid canvas() const { return {grid.first * part.first, grid.second * part.second}; }
};

// Whether large pictures are cut into parts, whose tiles see each other.
bool is_in_parts(const Vision& vision);

// Of any picture of a native resolution's rule, or of any part of one, at most: tokens, which are tiles.
int64_t most_tokens(const Vision& vision);

// Of a picture of at most so many tiles, whatever its shape: squares of `side` a side.
int64_t most_windows(int64_t tokens, int64_t side);

// What the manifest's vision says of tiles is what a rule can follow; the reason where it is not.
std::optional<std::string> tiling_problem(const Vision& vision);

// Of an image of width x height pixels, from 1 to 2**31 - 1. Failure: usage, where it is too narrow for its native resolution.
PicturePlan plan_of(int64_t width, int64_t height, const Vision& vision);

}  // namespace pocketvlm
