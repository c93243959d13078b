#include "tiling.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <tuple>

namespace pocketvlm {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Relaxed aspect-ratio matching, Algorithm 1 of arXiv 2411.10640; `grids` in descending order.
Grid relaxed(int64_t width, int64_t height, int64_t tile, const std::vector<Grid>& grids, double alpha) {
  Grid best{1, 1};
  double best_effective = 0, best_wasted = kInfinity;
  for (const Grid& grid : grids) {
    const auto [fitted_width, fitted_height] = fitted_size(width, height, grid, tile, false);
    const auto effective = double(std::min(fitted_width * fitted_height, width * height));
    const double wasted = double(tile * grid.first * tile * grid.second) - effective, gain = effective - best_effective;
    if (gain > alpha * best_effective || (-gain < alpha * best_effective && wasted < best_wasted))
      best = grid, best_effective = effective, best_wasted = wasted;
  }
  return best;
}

// LLaVA-NeXT's select_best_resolution, which does not clamp a side that rounds to 0; `grids` in descending order.
Grid llava_next(int64_t width, int64_t height, int64_t tile, const std::vector<Grid>& grids) {
  Grid best{1, 1};
  double best_effective = -1, best_wasted = kInfinity;
  for (const Grid& grid : grids) {
    const double scale =
        std::min(double(tile * grid.first) / double(width), double(tile * grid.second) / double(height));
    const auto effective =
        double(std::min(int64_t(double(width) * scale) * int64_t(double(height) * scale), width * height));
    const double wasted = double(tile * grid.first * tile * grid.second) - effective;
    if (effective > best_effective || (effective == best_effective && wasted < best_wasted))
      best = grid, best_effective = effective, best_wasted = wasted;
  }
  return best;
}

// InternVL 1.5's find_closest_aspect_ratio: smaller grids first.
Grid internvl(int64_t width, int64_t height, int64_t tile, std::vector<Grid> grids) {
  std::sort(grids.begin(), grids.end(), [](const Grid& one, const Grid& other) {
    return std::make_tuple(one.first * one.second, one) < std::make_tuple(other.first * other.second, other);
  });
  Grid best{1, 1};
  double best_difference = kInfinity;
  for (const Grid& grid : grids) {
    const double difference = std::abs(double(width) / double(height) - double(grid.first) / double(grid.second));
    const bool large_enough =
        double(width * height) > 0.5 * double(tile) * double(tile) * double(grid.first) * double(grid.second);
    if (difference < best_difference || (difference == best_difference && large_enough))
      best = grid, best_difference = difference;
  }
  return best;
}

}  // namespace

Grid select_grid(int64_t width, int64_t height, int64_t tile, std::vector<Grid> candidates, const std::string& strategy,
                 double alpha) {
  std::sort(candidates.rbegin(), candidates.rend());
  candidates.erase(std::unique(candidates.begin(), candidates.end()), candidates.end());
  if (strategy == "internvl") return internvl(width, height, tile, std::move(candidates));
  if (strategy == "llava-next") return llava_next(width, height, tile, candidates);
  return relaxed(width, height, tile, candidates, alpha);
}

std::pair<int64_t, int64_t> fitted_size(int64_t width, int64_t height, const Grid& grid, int64_t tile, bool round_up) {
  const int64_t canvas_width = tile * grid.first, canvas_height = tile * grid.second;
  const double across = double(canvas_width) / double(width), down = double(canvas_height) / double(height);
  if (!round_up) {
    const double scale = std::min(across, down);
    return {std::max<int64_t>(1, int64_t(double(width) * scale)),
            std::max<int64_t>(1, int64_t(double(height) * scale))};
  }
  if (across < down) return {canvas_width, std::min(int64_t(std::ceil(double(height) * across)), canvas_height)};
  return {std::min(int64_t(std::ceil(double(width) * down)), canvas_width), canvas_height};
}

}  // namespace pocketvlm
