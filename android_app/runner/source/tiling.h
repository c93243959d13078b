// Which grid of tiles an image is cut into: pocketvlm/images/rules in the same double arithmetic, step by step.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "manifest.h"

namespace pocketvlm {

// The grid for an image of width x height pixels. Sizes are from 1 to 2**31 - 1; candidates are not empty.
Grid select_grid(int64_t width, int64_t height, int64_t tile, std::vector<Grid> candidates, const std::string& strategy,
                 double alpha);

// (width, height) at which an image fills a grid with its aspect ratio kept.
std::pair<int64_t, int64_t> fitted_size(int64_t width, int64_t height, const Grid& grid, int64_t tile, bool round_up);

}  // namespace pocketvlm
