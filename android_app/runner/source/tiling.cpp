#include "tiling.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <tuple>

#include "error.h"

namespace pocketvlm {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr int64_t kMaxEdge = 4096;  // what Idefics3's processor clips to
constexpr int64_t kMostAspect = 200;  // of native resolution: the longer side by the shorter one
constexpr int64_t kMostPart = 64;     // tiles along a side of a part
constexpr int64_t kTolerance = 2;     // of lfm2: a picture is large beyond so many times the most pixels
constexpr int64_t kPatchesOfASide = 2;  // of a tile, where lfm2 asks whether a picture is large

// (width, height) at which an image fills a grid with its aspect ratio kept.
Size fitted_size(int64_t width, int64_t height, const Grid& grid, int64_t tile, bool round_up) {
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

// LLaVA-NeXT's select_best_resolution, which does not clamp a side that rounds to 0; the first of equal grids.
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

// find_closest_aspect_ratio, of squares of `side` pixels: of grids that are as near, a later one where the picture is large.
Grid closest(int64_t width, int64_t height, int64_t side, const std::vector<Grid>& grids) {
  Grid best{1, 1};
  double best_difference = kInfinity;
  for (const Grid& grid : grids) {
    const double difference = std::abs(double(width) / double(height) - double(grid.first) / double(grid.second));
    const bool large_enough =
        double(width * height) > 0.5 * double(side) * double(side) * double(grid.first) * double(grid.second);
    if (difference < best_difference || (difference == best_difference && large_enough))
      best = grid, best_difference = difference;
  }
  return best;
}

// InternVL 1.5's: smaller grids first.
Grid internvl(int64_t width, int64_t height, int64_t tile, std::vector<Grid> grids) {
  std::sort(grids.begin(), grids.end(), [](const Grid& one, const Grid& other) {
    return std::make_tuple(one.first * one.second, one) < std::make_tuple(other.first * other.second, other);
  });
  return closest(width, height, tile, grids);
}

// Each candidate once, in descending order.
std::vector<Grid> sorted_grids(std::vector<Grid> candidates) {
  std::sort(candidates.rbegin(), candidates.rend());
  candidates.erase(std::unique(candidates.begin(), candidates.end()), candidates.end());
  return candidates;
}

int64_t most_tiles(const Vision& vision) {
  int64_t most = 1;
  for (const auto& [across, down] : vision.candidates) most = std::max({most, across, down});
  return most;
}

// Idefics3: what the longer side is resized to first.
int64_t longest_edge(const Vision& vision) {
  if (vision.longest_edge) return *vision.longest_edge;
  const int64_t whole = std::min(most_tiles(vision) * vision.tile_size, kMaxEdge);
  return std::max<int64_t>(whole - whole % 2, 2);
}

int64_t tiles_over(int64_t pixels, int64_t tile) { return (pixels + tile - 1) / tile; }

// transformers' resize, resize_for_vision_encoder and split_images.
PicturePlan idefics3(int64_t width, int64_t height, const Vision& vision) {
  const int64_t tile = vision.tile_size, longest = longest_edge(vision);
  const bool wide = width >= height;
  const double ratio = double(width) / double(height);
  const int64_t other = wide ? int64_t(double(longest) / ratio) : int64_t(double(longest) * ratio);
  const int64_t even = std::max<int64_t>(other + other % 2, 1);
  const Size first = wide ? Size{longest, even} : Size{even, longest};
  Size second{tile, tile};
  if (most_tiles(vision) > 1) {
    const double now = double(first.first) / double(first.second);
    const bool is_wide = first.first >= first.second;
    const int64_t whole = tiles_over(is_wide ? first.first : first.second, tile) * tile;
    const int64_t rest = is_wide ? int64_t(double(whole) / now) : int64_t(double(whole) * now);
    second = is_wide ? Size{whole, tiles_over(rest, tile) * tile} : Size{tiles_over(rest, tile) * tile, whole};
  }
  return {{second.first / tile, second.second / tile}, {first, second}, {0, 0}, std::nullopt, 2};
}

// transformers' get_resize_output_image_size and center_crop.
PicturePlan center_crop(int64_t width, int64_t height, const Vision& vision) {
  const int64_t tile = vision.tile_size, shorter = std::min(width, height), longer = std::max(width, height);
  const auto length = int64_t(double(tile * longer) / double(shorter));
  const Size size = width <= height ? Size{tile, length} : Size{length, tile};
  return {{1, 1}, {size}, {-((size.first - tile) / 2), -((size.second - tile) / 2)}, std::nullopt};
}

// LLaVA's expand2square, and CLIP's processor of what it makes.
PicturePlan pad_square(int64_t width, int64_t height, const Vision& vision) {
  PicturePlan plan{{1, 1}, {{vision.tile_size, vision.tile_size}}, {0, 0}, std::nullopt};
  plan.square = std::max(width, height);
  return plan;
}

int64_t whole_tiles(int64_t pixels, int64_t tile) { return int64_t(std::nearbyint(double(pixels) / double(tile))); }

void check_aspect(int64_t width, int64_t height) {
  if (double(std::max(width, height)) / double(std::min(width, height)) > double(kMostAspect))
    throw Error(Failure::usage, "a picture of " + std::to_string(width) + " x " + std::to_string(height) +
                                    " pixels is too narrow: one side is at most " + std::to_string(kMostAspect) +
                                    " times the other");
}

// Tokens (across, down): whole ones a side and no fewer than `fewest` of them, halves to the even multiple, within the bounds
// of pixels. transformers' smart_resize.
Grid whole_picture(int64_t width, int64_t height, const Vision& vision, int64_t fewest) {
  const auto tile = double(vision.tile_size), wide = double(width), high = double(height);
  check_aspect(width, height);
  const auto tokens = [&](double side) { return std::max<int64_t>(1, int64_t(std::floor(side / tile))); };
  int64_t down = std::max(fewest, whole_tiles(height, vision.tile_size)),
          across = std::max(fewest, whole_tiles(width, vision.tile_size));
  const int64_t pixels = down * across * vision.tile_size * vision.tile_size;
  if (pixels > *vision.max_pixels) {
    const double share = std::sqrt(double(height * width) / double(*vision.max_pixels));
    down = tokens(high / share), across = tokens(wide / share);
  } else if (pixels < *vision.min_pixels) {
    const double share = std::sqrt(double(*vision.min_pixels) / double(height * width));
    down = int64_t(std::ceil(high * share / tile)), across = int64_t(std::ceil(wide * share / tile));
  }
  return {across, down};
}

// Tiles as (width, height) in pixels.
Size in_pixels(const Grid& tiles, int64_t tile) { return {tiles.first * tile, tiles.second * tile}; }

PicturePlan smart_resize(int64_t width, int64_t height, const Vision& vision) {
  const Grid grid = whole_picture(width, height, vision, 0);
  return {grid, {in_pixels(grid, vision.tile_size)}, {0, 0}, std::nullopt};
}

// Gemma 4's get_aspect_ratio_preserving_size: as many tokens as the most allow in the picture's shape.
PicturePlan gemma4(int64_t width, int64_t height, const Vision& vision) {
  const int64_t tile = vision.tile_size, most = *vision.max_pixels / (tile * tile);
  const double factor = std::sqrt(double(*vision.max_pixels) / double(height * width));
  const auto whole = [&](int64_t pixels) { return int64_t(std::floor(factor * double(pixels) / double(tile))); };
  Grid grid{whole(width), whole(height)};
  if (grid.second == 0) grid = {std::min(width / height, most), 1};
  else if (grid.first == 0) grid = {1, std::min(height / width, most)};
  return {grid, {in_pixels(grid, tile)}, {0, 0}, std::nullopt};
}

// LFM2-VL's resize_and_split: the whole picture, and of a large one square parts before it.
PicturePlan lfm2(int64_t width, int64_t height, const Vision& vision) {
  const int64_t tile = vision.tile_size, part = *vision.part;
  const Grid whole = whole_picture(width, height, vision, 1);
  const auto side = [&](int64_t pixels) { return std::max(tile / kPatchesOfASide, whole_tiles(pixels, tile) * tile); };
  const bool large = side(width) * side(height) > kTolerance * *vision.max_pixels;
  const Grid grid = large ? closest(width, height, part * tile, vision.candidates) : Grid{1, 1};
  if (grid == Grid{1, 1}) return {grid, {in_pixels(whole, tile)}, {0, 0}, std::nullopt, 0, whole};
  PicturePlan plan{grid, {}, {0, 0}, grid.first * grid.second, 0, {part, part}, whole};
  plan.resizes = {in_pixels(plan.canvas(), tile)};
  return plan;
}

// The nearest multiple, halves to the even one, that is not zero.
int64_t whole_times(double pixels, int64_t count) {
  return std::max(int64_t(std::nearbyint(pixels / double(count))) * count, count);
}

// find_best_resize: as many pixels as the square of this side has, whole patches a side.
Size of_a_squares_pixels(double width, double height, int64_t side, int64_t patch) {
  const double ratio = width / height;
  const auto down = int64_t(double(side) / std::sqrt(ratio));
  return {whole_times(double(int64_t(double(down) * ratio)), patch), whole_times(double(down), patch)};
}

int64_t side_of_slice(const Vision& vision) {
  auto side = int64_t(std::sqrt(double(*vision.max_pixels)));
  while (side * side > *vision.max_pixels) side--;
  while ((side + 1) * (side + 1) <= *vision.max_pixels) side++;
  return side;
}

// get_sliced_grid: of about as many slices as the picture has squares, the nearest ratio by logarithm.
Grid sliced_grid(int64_t width, int64_t height, int64_t side, const Vision& vision) {
  const double squares = std::ceil(double(width * height) / double(side * side));
  const auto wanted = int64_t(std::min(squares, double(most_tiles(vision))));
  Grid best{1, 1};
  if (wanted <= 1) return best;
  const double ratio = std::log(double(width) / double(height));
  double nearest = kInfinity;
  for (const Grid& grid : vision.candidates) {
    const double difference = std::abs(ratio - std::log(double(grid.first) / double(grid.second)));
    const int64_t slices = grid.first * grid.second;
    if (slices > 1 && std::abs(slices - wanted) <= 1 && difference < nearest) best = grid, nearest = difference;
  }
  return best;
}

// MiniCPM-V's slice_image: the whole picture, and of a large one slices behind it. A tile is a patch.
PicturePlan minicpmv(int64_t width, int64_t height, const Vision& vision) {
  check_aspect(width, height);
  const int64_t patch = vision.tile_size, side = side_of_slice(vision);
  const auto in_patches = [&](const Size& size) { return Grid{size.first / patch, size.second / patch}; };
  const Size whole = of_a_squares_pixels(double(width), double(height), side, patch);
  const Grid grid = sliced_grid(width, height, side, vision);
  if (grid == Grid{1, 1}) return {grid, {whole}, {0, 0}, std::nullopt, 0, in_patches(whole)};
  const auto share = [](int64_t pixels, int64_t count) {
    return double(whole_times(double(pixels), count)) / double(count);
  };
  const Size slice = of_a_squares_pixels(share(width, grid.first), share(height, grid.second), side, patch);
  const Size canvas{slice.first * grid.first, slice.second * grid.second};
  return {grid, {canvas}, {0, 0}, 0, 0, in_patches(slice), in_patches(whole)};
}

std::optional<std::string> bounds_problem(const Vision& vision) {
  if (!vision.min_pixels || !vision.max_pixels)
    return "min_pixels and max_pixels: " + vision.strategy + " needs both";
  const int64_t least = *vision.min_pixels, most = *vision.max_pixels, token = vision.tile_size * vision.tile_size;
  if (least < 1 || least > most)
    return "min_pixels: " + std::to_string(least) + " is not from 1 to max_pixels, " + std::to_string(most);
  if (most < token)
    return "max_pixels: " + std::to_string(most) + " are less than a token's, " + std::to_string(token);
  return std::nullopt;
}

std::optional<std::string> smart_resize_problem(const Vision& vision) {
  if (const auto problem = bounds_problem(vision)) return problem;
  if (vision.thumbnail != "none") return "thumbnail: smart-resize has none";
  return std::nullopt;
}

std::optional<std::string> gemma4_problem(const Vision& vision) {
  if (const auto problem = bounds_problem(vision)) return problem;
  if (*vision.max_pixels % (vision.tile_size * vision.tile_size) != 0)
    return "max_pixels: " + std::to_string(*vision.max_pixels) + " are no whole tokens";
  if (vision.thumbnail != "none") return "thumbnail: gemma4 has none";
  return std::nullopt;
}

std::optional<std::string> lfm2_problem(const Vision& vision) {
  if (!vision.part || *vision.part < 1 || *vision.part > kMostPart)
    return "part: lfm2 needs it, from 1 to " + std::to_string(kMostPart);
  if (vision.thumbnail != "last" || vision.thumbnail_of_single_tile)
    return "thumbnail: lfm2 has it last, and none of a whole picture";
  return bounds_problem(vision);
}

std::optional<std::string> minicpmv_problem(const Vision& vision) {
  if (vision.thumbnail != "first" || vision.thumbnail_of_single_tile)
    return "thumbnail: minicpmv has it first, and none of a picture that is not cut";
  if (const auto problem = bounds_problem(vision)) return problem;
  const int64_t side = side_of_slice(vision);
  if (*vision.min_pixels != *vision.max_pixels || side * side != *vision.max_pixels)
    return "max_pixels: " + std::to_string(*vision.max_pixels) + " is no square of a side, or not min_pixels";
  if (vision.part) return "part: " + std::to_string(*vision.part) + ", and minicpmv has slices of any size";
  std::vector<Grid> grids{{1, 1}};
  for (int64_t count = 2; count <= most_tiles(vision) && grids.size() <= vision.candidates.size(); count++)
    for (int64_t across = 1; across <= count; across++)
      if (count % across == 0) grids.push_back({across, count / across});
  if (grids != vision.candidates) return "candidates: minicpmv has all grids of its most slices, in its order";
  return std::nullopt;
}

PicturePlan of_grid(int64_t width, int64_t height, const Vision& vision) {
  const int64_t tile = vision.tile_size;
  if (vision.strategy == "internvl") {
    const Grid grid = internvl(width, height, tile, sorted_grids(vision.candidates));
    return {grid, {{grid.first * tile, grid.second * tile}}, {0, 0}, std::nullopt};
  }
  const bool next = vision.strategy == "llava-next";
  const Grid grid = next ? llava_next(width, height, tile, vision.candidates)
                         : relaxed(width, height, tile, sorted_grids(vision.candidates), vision.alpha);
  const Size size = fitted_size(width, height, grid, tile, next);
  return {grid,
          {size},
          {(grid.first * tile - size.first) / 2, (grid.second * tile - size.second) / 2},
          std::nullopt};
}

}  // namespace

bool is_in_parts(const Vision& vision) { return vision.strategy == "lfm2" || vision.strategy == "minicpmv"; }

int64_t most_tokens(const Vision& vision) {
  if (vision.strategy == "minicpmv") {
    const double along = double(side_of_slice(vision)) / double(vision.tile_size), ratio = std::sqrt(double(kMostAspect));
    const double longest = along * ratio, narrowest = along / ratio;
    return int64_t(std::ceil(std::max((longest + 0.5) * (narrowest + 0.5), longest + 0.5)));
  }
  if (vision.strategy == "gemma4") return *vision.max_pixels / (vision.tile_size * vision.tile_size);
  const auto token = double(vision.tile_size * vision.tile_size), aspect = std::sqrt(double(kMostAspect));
  const double least = double(*vision.min_pixels) / token, most = double(*vision.max_pixels) / token;
  const double rounded_up = least + std::sqrt(least) * (aspect + 1 / aspect) + 1;
  const int64_t of_part = vision.part.value_or(0) * vision.part.value_or(0);
  return std::max({of_part, int64_t(most), int64_t(std::ceil(std::sqrt(most * double(kMostAspect)))),
                   int64_t(std::ceil(rounded_up))});
}

int64_t most_windows(int64_t tokens, int64_t side) {
  int64_t most = 0;
  for (int64_t across = 1; across <= tokens; across++)
    most = std::max(most, tiles_over(across, side) * tiles_over(tokens / across, side));
  return most;
}

std::optional<std::string> tiling_problem(const Vision& vision) {
  if (vision.strategy == "smart-resize") return smart_resize_problem(vision);
  if (vision.strategy == "gemma4") return gemma4_problem(vision);
  if (vision.strategy == "lfm2") return lfm2_problem(vision);
  if (vision.strategy == "minicpmv") return minicpmv_problem(vision);
  const auto known = [&](const Grid& grid) {
    return std::find(vision.candidates.begin(), vision.candidates.end(), grid) != vision.candidates.end();
  };
  const bool is_whole = vision.strategy == "center-crop" || vision.strategy == "pad-square";
  if (is_whole && !known({1, 1})) return "candidates: they lack the grid that a picture gets";
  if (vision.strategy != "idefics3") return std::nullopt;
  const int64_t longest = longest_edge(vision);
  if (longest < 2 || longest > kMaxEdge || longest % 2 != 0) return "longest_edge: not an even number up to 4096";
  if (most_tiles(vision) == 1) return std::nullopt;
  const int64_t most = tiles_over(longest, vision.tile_size);
  for (int64_t other = 1; other <= most; other++)
    if (!known({most, other}) || !known({other, most})) return "candidates: they lack a grid that a picture can get";
  return std::nullopt;
}

PicturePlan plan_of(int64_t width, int64_t height, const Vision& vision) {
  if (vision.strategy == "lfm2") return lfm2(width, height, vision);
  if (vision.strategy == "minicpmv") return minicpmv(width, height, vision);
  PicturePlan plan = vision.strategy == "idefics3"       ? idefics3(width, height, vision)
                     : vision.strategy == "center-crop"  ? center_crop(width, height, vision)
                     : vision.strategy == "pad-square"   ? pad_square(width, height, vision)
                     : vision.strategy == "smart-resize" ? smart_resize(width, height, vision)
                     : vision.strategy == "gemma4"       ? gemma4(width, height, vision)
                                                         : of_grid(width, height, vision);
  const int64_t tiles = plan.grid.first * plan.grid.second;
  if (vision.thumbnail != "none" && (tiles > 1 || vision.thumbnail_of_single_tile))
    plan.thumbnail = vision.thumbnail == "first" ? 0 : tiles;
  return plan;
}

}  // namespace pocketvlm
