#include "images.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "error.h"

namespace pocketvlm {
namespace {

constexpr int64_t kMaxTiles = 1024;
constexpr double kMaxScale = 1e6;
constexpr int kPrecision = 22;  // bits behind the point of a weight: Pillow's for 8-bit channels

// Pillow's bicubic, a = -0.5 (src/libImaging/Resample.c).
double bicubic(double x) {
  constexpr double a = -0.5;
  x = std::abs(x);
  if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
  if (x < 2.0) return (((x - 5) * x + 8) * x - 4) * a;
  return 0.0;
}

// Which inputs make one output, and by which fixed-point weights.
struct Window {
  int64_t first;
  std::vector<int32_t> weights;
};

// Pillow's Lanczos: a sinc of three lobes, by another one.
double sinc(double x) {
  if (x == 0.0) return 1.0;
  x *= M_PI;
  return std::sin(x) / x;
}

double lanczos(double x) { return -3.0 <= x && x < 3.0 ? sinc(x) * sinc(x / 3) : 0.0; }

// Pillow's bilinear: a triangle.
double bilinear(double x) {
  x = std::abs(x);
  return x < 1.0 ? 1.0 - x : 0.0;
}

struct Filter {
  double (*weight)(double);
  double support;
};

Filter filter_of(const std::string& name) {
  if (name == "bilinear") return Filter{bilinear, 1.0};
  return name == "lanczos" ? Filter{lanczos, 3.0} : Filter{bicubic, 2.0};
}

std::vector<Window> windows(int64_t in, int64_t out, const Filter& filter) {
  const double scale = double(in) / double(out), filter_scale = std::max(scale, 1.0),
               support = filter.support * filter_scale;
  std::vector<Window> result;
  result.reserve(size_t(out));
  std::vector<double> exact;
  for (int64_t at = 0; at < out; at++) {
    const double center = (double(at) + 0.5) * scale, step = 1.0 / filter_scale;
    const int64_t first = std::max<int64_t>(0, int64_t(center - support + 0.5));
    const int64_t last = std::min(in, int64_t(center + support + 0.5));
    exact.clear();
    double sum = 0;
    for (int64_t x = first; x < last; x++) {
      exact.push_back(filter.weight((double(x) - center + 0.5) * step));
      sum += exact.back();
    }
    Window window{first, {}};
    for (double weight : exact) {
      if (sum != 0.0) weight /= sum;
      weight *= 1 << kPrecision;
      window.weights.push_back(int32_t(weight < 0 ? weight - 0.5 : weight + 0.5));
    }
    result.push_back(std::move(window));
  }
  return result;
}

uint8_t rounded(int32_t sum) { return uint8_t(std::clamp(sum >> kPrecision, 0, 255)); }

Rgb resize_across(const Rgb& image, int64_t width, const Filter& filter) {
  Rgb result{width, image.height, std::vector<uint8_t>(size_t(width * image.height * 3))};
  const std::vector<Window> every = windows(image.width, width, filter);
  for (int64_t row = 0; row < image.height; row++) {
    uint8_t* out = &result.pixels[size_t(row * width * 3)];
    for (const Window& window : every) {
      const uint8_t* in = &image.pixels[size_t((row * image.width + window.first) * 3)];
      int32_t red = 1 << (kPrecision - 1), green = red, blue = red;
      for (const int32_t weight : window.weights) {
        red += in[0] * weight, green += in[1] * weight, blue += in[2] * weight;
        in += 3;
      }
      *out++ = rounded(red), *out++ = rounded(green), *out++ = rounded(blue);
    }
  }
  return result;
}

Rgb resize_down(const Rgb& image, int64_t height, const Filter& filter) {
  const int64_t bytes = image.width * 3;  // of a row
  Rgb result{image.width, height, std::vector<uint8_t>(size_t(bytes * height))};
  std::vector<int32_t> sums(size_t(bytes), 0);
  uint8_t* out = result.pixels.data();
  for (const Window& window : windows(image.height, height, filter)) {
    std::fill(sums.begin(), sums.end(), 1 << (kPrecision - 1));
    const uint8_t* in = &image.pixels[size_t(window.first * bytes)];
    for (const int32_t weight : window.weights) {
      for (int64_t at = 0; at < bytes; at++) sums[size_t(at)] += in[at] * weight;
      in += bytes;
    }
    for (const int32_t sum : sums) *out++ = rounded(sum);
  }
  return result;
}

// A resized image on the canvas of its grid, on the padding's colour where it does not fill it, without what lies outside.
Rgb canvas_of(Rgb image, const PicturePlan& plan, const Vision& vision) {
  const auto [across, down] = plan.canvas();
  Rgb canvas{across * vision.tile_size, down * vision.tile_size, {}};
  if (image.width == canvas.width && image.height == canvas.height) return image;
  canvas.pixels.resize(size_t(canvas.width * canvas.height * 3));
  for (size_t at = 0; at < canvas.pixels.size(); at++) canvas.pixels[at] = uint8_t(vision.pad_color[at % 3]);
  const auto [left, top] = plan.place;
  const int64_t first = std::max<int64_t>(left, 0), end = std::min(left + image.width, canvas.width);
  for (int64_t y = std::max<int64_t>(top, 0); y < std::min(top + image.height, canvas.height); y++)
    std::memcpy(&canvas.pixels[size_t((y * canvas.width + first) * 3)],
                &image.pixels[size_t(((y - top) * image.width + first - left) * 3)], size_t((end - first) * 3));
  return canvas;
}

// An image in the middle of a square of the padding's colour.
Rgb squared(const Rgb& image, int64_t side, const Vision& vision) {
  Rgb square{side, side, std::vector<uint8_t>(size_t(side * side * 3))};
  for (size_t at = 0; at < square.pixels.size(); at++) square.pixels[at] = uint8_t(vision.pad_color[at % 3]);
  const int64_t left = (side - image.width) / 2, top = (side - image.height) / 2;
  for (int64_t y = 0; y < image.height; y++)
    std::memcpy(&square.pixels[size_t(((top + y) * side + left) * 3)], &image.pixels[size_t(y * image.width * 3)],
                size_t(image.width * 3));
  return square;
}

// The tiles of a rectangle of `grid` tiles whose corner is at (left, top), row by row, behind those that are there.
void cut(const Rgb& from, int64_t left, int64_t top, const Grid& grid, int64_t tile, std::vector<uint8_t>& tiles) {
  for (int64_t index = 0; index < grid.first * grid.second; index++) {
    const int64_t x = left + index % grid.first * tile, y = top + index / grid.first * tile;
    for (int64_t row = y; row < y + tile; row++) {
      const uint8_t* in = &from.pixels[size_t((row * from.width + x) * 3)];
      tiles.insert(tiles.end(), in, in + tile * 3);
    }
  }
}

bool is_factor(double value) { return value >= 1 / kMaxScale && value <= kMaxScale; }

}  // namespace

void check_vision(const Vision& vision, const ImageLayout& layout) {
  const auto require = [](bool holds, const std::string& what) {
    if (!holds) throw Error(Failure::bundle, "the manifest's vision is not valid: " + what);
  };
  const int64_t side = vision.tile_size * vision.part.value_or(1);
  for (const auto& [across, down] : vision.candidates) {
    // (the first two keep the products small)
    require(across <= kMaxTiles && down <= kMaxTiles && across * down <= kMaxTiles &&
                std::max(across, down) * side <= kMaxSide && across * down * side * side <= kMaxPixels,
            "candidates: a grid is too large");
    const auto rows = size_t(down), columns = size_t(across);
    require(layout.tile.size() >= rows &&
                std::all_of(layout.tile.begin(), layout.tile.begin() + down,
                            [&](const std::vector<TokenIds>& row) { return row.size() >= columns; }),
            "image_layout.tile has no entry for every tile of a grid");
  }
  if (const auto problem = tiling_problem(vision)) require(false, *problem);
  require(*std::min_element(vision.pad_color.begin(), vision.pad_color.end()) >= 0, "pad_color: not three bytes");
  require(is_factor(vision.rescale), "rescale: out of range");
  for (size_t i = 0; i < 3; i++)
    require(std::abs(vision.mean[i]) <= kMaxScale && is_factor(vision.std[i]), "mean or std: out of range");
}

Rgb flatten(const uint8_t* rgba, int64_t width, int64_t height, int64_t stride) {
  if (width < 1 || height < 1 || width > kMaxSide || height > kMaxSide || width * height > kMaxPixels ||
      stride < width * 4)
    throw Error(Failure::usage,
                "an image has from 1 to 16384 pixels a side, 64 Mi in all, and rows of 4 bytes a pixel");
  Rgb image{width, height, std::vector<uint8_t>(size_t(width * height * 3))};
  uint8_t* out = image.pixels.data();
  for (int64_t row = 0; row < height; row++)
    for (const uint8_t* in = rgba + row * stride, *end = in + width * 4; in < end; in += 4)
      for (int channel = 0; channel < 3; channel++) {
        // Pillow's blending: a division by 255, rounded, in integers.
        const uint32_t sum = 255u * (255u - in[3]) + uint32_t(in[channel]) * in[3] + 128u;
        *out++ = uint8_t(((sum >> 8) + sum) >> 8);
      }
  return image;
}

Rgb resize(const Rgb& image, int64_t width, int64_t height, const std::string& name) {
  const bool across = width != image.width, down = height != image.height;
  const Filter filter = filter_of(name);
  if (across && down) {
    // Each pass rounds to bytes, so their order shows. Pillow from 13 on runs the vertical pass first where the height
    // shrinks by more than twice what the width does, in pixels.
    const int64_t lower = image.height - height, narrower = image.width - width;
    if (lower > 0 && lower > 2 * narrower) return resize_across(resize_down(image, height, filter), width, filter);
    return resize_down(resize_across(image, width, filter), height, filter);
  }
  return across ? resize_across(image, width, filter) : down ? resize_down(image, height, filter) : image;
}

Tiles cut_tiles(const Rgb& given, const Vision& vision) {
  const PicturePlan plan = plan_of(given.width, given.height, vision);
  const int64_t tile = vision.tile_size, count = plan.grid.first * plan.grid.second;
  const auto [across, down] = plan.part;
  const Size small{plan.thumbnail_part.first * tile, plan.thumbnail_part.second * tile};
  std::vector<Size> sizes = plan.resizes;
  sizes.push_back(small);
  for (const auto& [width, height] : sizes)
    if (width * height > kMaxPixels) throw Error(Failure::usage, "the image is too narrow for a crop of it");
  if (plan.square > 0 && plan.square > kMaxPixels / plan.square)
    throw Error(Failure::usage, "the image is too narrow for a square around it");
  const Rgb around = plan.square > 0 ? squared(given, plan.square, vision) : Rgb{};
  const Rgb& image = plan.square > 0 ? around : given;
  Rgb shown, thumbnail;
  for (size_t done = 0; done <= plan.resizes.size(); done++) {
    const Rgb& now = done <= 1 ? image : shown;
    if (done > 0) shown = resize(now, plan.resizes[done - 1].first, plan.resizes[done - 1].second, vision.resize_filter);
    if (plan.thumbnail && plan.thumbnail_of == done)
      thumbnail = resize(done == 0 ? image : shown, small.first, small.second, vision.resize_filter);
  }
  const Rgb canvas = canvas_of(std::move(shown), plan, vision);
  const int64_t own = plan.thumbnail ? plan.thumbnail_part.first * plan.thumbnail_part.second : 0;
  Tiles tiles{plan.grid, plan.thumbnail, {}, count * across * down + own, {}};
  tiles.pixels.reserve(size_t(tiles.count * tile * tile * 3));
  const auto add = [&](const Rgb& from, int64_t left, int64_t top, const Grid& grid) {
    cut(from, left, top, grid, tile, tiles.pixels);
    if (is_in_parts(vision)) tiles.seen.push_back(grid);
  };
  if (plan.thumbnail == 0) add(thumbnail, 0, 0, plan.thumbnail_part);
  for (int64_t place = 0; place < count; place++)
    add(canvas, place % plan.grid.first * across * tile, place / plan.grid.first * down * tile, plan.part);
  if (plan.thumbnail && *plan.thumbnail > 0) add(thumbnail, 0, 0, plan.thumbnail_part);
  if (vision.patches && !is_in_parts(vision)) tiles.seen = {plan.grid};
  return tiles;
}

void normalize(const uint8_t* pixels, int64_t tiles, const Vision& vision, float* output) {
  const int64_t size = vision.tile_size * vision.tile_size;
  float values[3][256];
  for (size_t channel = 0; channel < 3; channel++)
    for (int byte = 0; byte < 256; byte++) {
      float value = float(byte) * float(vision.rescale);
      value -= float(vision.mean[channel]);
      values[channel][byte] = value / float(vision.std[channel]);
    }
  // [tiles, H * W, 3] -> [tiles, 3, H * W]
  for (int64_t tile = 0; tile < tiles; tile++)
    for (int64_t channel = 0; channel < 3; channel++) {
      const uint8_t* in = pixels + tile * size * 3 + channel;
      float* out = output + (tile * 3 + channel) * size;
      for (int64_t at = 0; at < size; at++) out[at] = values[channel][in[3 * at]];
    }
}

}  // namespace pocketvlm
