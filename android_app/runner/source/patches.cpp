#include "patches.h"

#include <algorithm>
#include <cmath>

namespace pocketvlm {
namespace {

// Calls use(row, column) of each patch of a picture, tile by tile, along the rows of each.
template <typename Use>
void each_place(const Grid& grid, int64_t ratio, Use use) {
  for (int64_t tile = 0; tile < grid.first * grid.second; tile++)
    for (int64_t patch = 0; patch < ratio * ratio; patch++)
      use(tile / grid.first * ratio + patch / ratio, tile % grid.first * ratio + patch % ratio);
}

// The two neighbours in a table of `side` of each of `count` places, with their shares.
struct Tap {
  int64_t index[2];
  float share[2];
};

std::vector<Tap> taps(int64_t count, int64_t side) {
  std::vector<Tap> found;
  for (int64_t place = 0; place < count; place++) {
    const float at = float(place) * float(side - 1) / float(std::max<int64_t>(count - 1, 1));
    const auto first = int64_t(at);
    const float share = at - float(first);
    found.push_back({{first, std::min(first + 1, side - 1)}, {1.0f - share, share}});
  }
  return found;
}

}  // namespace

std::pair<std::vector<float>, std::vector<float>> axial_rope(const Grid& grid, int64_t ratio, int64_t head_dim,
                                                             double theta) {
  const int64_t half = head_dim / 2;
  std::vector<double> frequencies;
  for (int64_t at = 0; at < half; at += 2) frequencies.push_back(std::pow(theta, -double(at) / double(half)));
  std::vector<float> cos, sin;
  const auto size = size_t(grid.first * grid.second * ratio * ratio * half);
  cos.reserve(size), sin.reserve(size);
  each_place(grid, ratio, [&](int64_t row, int64_t column) {
    for (const int64_t at : {row, column})
      for (const double frequency : frequencies) {
        cos.push_back(float(std::cos(double(at) * frequency)));
        sin.push_back(float(std::sin(double(at) * frequency)));
      }
  });
  return {std::move(cos), std::move(sin)};
}

Windows windows_of(const Grid& grid, int64_t side, int64_t ratio) {
  const auto [across, down] = grid;
  const int64_t columns = (across + side - 1) / side, rows = (down + side - 1) / side;
  Windows found{rows * columns, {}, {}, std::vector<int64_t>(size_t(across * down))};
  for (int64_t window = 0; window < found.count; window++)
    for (int64_t inside = 0; inside < side * side; inside++) {
      const int64_t row = window / columns * side + inside / side, column = window % columns * side + inside % side;
      const bool is_there = row < down && column < across;
      if (is_there) found.positions[size_t(row * across + column)] = int64_t(found.tiles.size());
      found.tiles.push_back(is_there ? row * across + column : 0);
      found.mask.insert(found.mask.end(), size_t(ratio * ratio), is_there ? 1 : 0);
    }
  return found;
}

std::vector<float> interpolated(const Grid& grid, int64_t ratio, const std::vector<float>& table, int64_t side) {
  const int64_t width = int64_t(table.size()) / (side * side);
  const std::vector<Tap> rows = taps(grid.second * ratio, side), columns = taps(grid.first * ratio, side);
  std::vector<float> found(size_t(grid.first * grid.second * ratio * ratio * width), 0.0f);
  float* out = found.data();
  each_place(grid, ratio, [&](int64_t y, int64_t x) {
    const Tap &row = rows[size_t(y)], &column = columns[size_t(x)];
    for (int down = 0; down < 2; down++)
      for (int right = 0; right < 2; right++) {
        const float share = row.share[down] * column.share[right];
        const float* in = &table[size_t((row.index[down] * side + column.index[right]) * width)];
        for (int64_t i = 0; i < width; i++) out[i] += in[i] * share;
      }
    out += width;
  });
  return found;
}

}  // namespace pocketvlm
