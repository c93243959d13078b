// Where the patches of a picture stand that goes through its tower as a whole: pocketvlm/images/patches.py, step by step.
#pragma once

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "manifest.h"

namespace pocketvlm {

// cos and sin, float32 [tiles, ratio * ratio, head_dim / 2] each, of a picture of `grid` (across, down) tiles. Without
// `theta` nothing turns.
std::pair<std::vector<float>, std::vector<float>> axial_rope(const Grid& grid, int64_t ratio, int64_t head_dim,
                                                             std::optional<double> theta);

// Squares of tiles whose patches see each other alone.
struct Windows {
  int64_t count;
  std::vector<int64_t> tiles;      // [windows, side * side]: the tile at each place, 0 where there is none
  std::vector<int32_t> mask;       // [windows, side * side * ratio * ratio]: 1 where there is a patch
  std::vector<int64_t> positions;  // [tiles]: where in `tiles`, read on from window to window, each stands
};
Windows windows_of(const Grid& grid, int64_t side, int64_t ratio);

// A learned table of positions, float32 [side, side, width], stretched over a picture: [tiles, ratio * ratio, width].
std::vector<float> interpolated(const Grid& grid, int64_t ratio, const std::vector<float>& table, int64_t side);

// Of such a table the entry that each patch falls into.
std::vector<float> bucketed(const Grid& grid, int64_t ratio, const std::vector<float>& table, int64_t side);

// Of two tables, float32 [2, side, width], the sum of what each patch's column has in the first and its row in the second.
std::vector<float> by_axis(const Grid& grid, int64_t ratio, const std::vector<float>& table, int64_t side);

// What a resampler adds to its keys, float32 [tiles, 1, width], of tiles that are a patch each: sines and cosines of the
// column, then of the row.
std::vector<float> sincos_rows(const Grid& grid, int64_t width);

// The same as `interpolated`, resized as an image is: a triangle as wide as a patch is in the table, and no less than a row.
std::vector<float> antialiased(const Grid& grid, int64_t ratio, const std::vector<float>& table, int64_t side);

}  // namespace pocketvlm
