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
struct Neighbours {
  int64_t index[2];
  float share[2];
};

std::vector<Neighbours> neighbours(int64_t count, int64_t side) {
  std::vector<Neighbours> found;
  for (int64_t place = 0; place < count; place++) {
    const float at = float(place) * float(side - 1) / float(std::max<int64_t>(count - 1, 1));
    const auto first = int64_t(at);
    const float share = at - float(first);
    found.push_back({{first, std::min(first + 1, side - 1)}, {1.0f - share, share}});
  }
  return found;
}

// Which rows of a table of `side` make each of `count` places, and the shares of each.
struct Triangle {
  int64_t first;
  std::vector<double> shares;
};

std::vector<Triangle> triangles(int64_t count, int64_t side) {
  const double scale = double(side) / double(count), width = std::max(scale, 1.0);
  std::vector<Triangle> found;
  for (int64_t place = 0; place < count; place++) {
    const double middle = (double(place) + 0.5) * scale;
    const int64_t first = std::max<int64_t>(int64_t(middle - width + 0.5), 0),
                  last = std::min(int64_t(middle + width + 0.5), side);
    Triangle one{first, {}};
    double sum = 0;
    for (int64_t at = first; at < last; at++) {
      one.shares.push_back(std::max(0.0, 1 - std::abs((double(at) - middle + 0.5) / width)));
      sum += one.shares.back();
    }
    for (double& share : one.shares) share /= sum;
    found.push_back(std::move(one));
  }
  return found;
}

}  // namespace

std::pair<std::vector<float>, std::vector<float>> axial_rope(const Grid& grid, int64_t ratio, int64_t head_dim,
                                                             std::optional<double> theta) {
  const int64_t half = head_dim / 2;
  std::vector<double> frequencies;
  for (int64_t at = 0; at < half; at += 2)
    frequencies.push_back(theta ? std::pow(*theta, -double(at) / double(half)) : 0.0);
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
  const std::vector<Neighbours> rows = neighbours(grid.second * ratio, side), columns = neighbours(grid.first * ratio, side);
  std::vector<float> found(size_t(grid.first * grid.second * ratio * ratio * width), 0.0f);
  float* out = found.data();
  each_place(grid, ratio, [&](int64_t y, int64_t x) {
    const Neighbours &row = rows[size_t(y)], &column = columns[size_t(x)];
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

std::vector<float> by_axis(const Grid& grid, int64_t ratio, const std::vector<float>& table, int64_t side) {
  const int64_t width = int64_t(table.size()) / (2 * side);
  std::vector<float> found;
  found.reserve(size_t(grid.first * grid.second * ratio * ratio * width));
  each_place(grid, ratio, [&](int64_t row, int64_t column) {
    const float *of_column = &table[size_t(column * width)], *of_row = &table[size_t((side + row) * width)];
    for (int64_t i = 0; i < width; i++) found.push_back(of_column[i] + of_row[i]);
  });
  return found;
}

std::vector<float> antialiased(const Grid& grid, int64_t ratio, const std::vector<float>& table, int64_t side) {
  const int64_t width = int64_t(table.size()) / (side * side), of_tile = ratio * ratio;
  const std::vector<Triangle> rows = triangles(grid.second * ratio, side), columns = triangles(grid.first * ratio, side);
  std::vector<float> found(size_t(grid.first * grid.second * of_tile * width));
  std::vector<double> row(size_t(side * width)), patch(static_cast<size_t>(width));
  for (int64_t y = 0; y < int64_t(rows.size()); y++) {
    std::fill(row.begin(), row.end(), 0.0);
    const Triangle& down = rows[size_t(y)];
    for (size_t tap = 0; tap < down.shares.size(); tap++) {
      const float* in = &table[size_t(down.first + int64_t(tap)) * row.size()];
      for (size_t i = 0; i < row.size(); i++) row[i] += double(in[i]) * down.shares[tap];
    }
    for (int64_t x = 0; x < int64_t(columns.size()); x++) {
      std::fill(patch.begin(), patch.end(), 0.0);
      const Triangle& across = columns[size_t(x)];
      for (size_t tap = 0; tap < across.shares.size(); tap++) {
        const double* in = &row[size_t(across.first + int64_t(tap)) * patch.size()];
        for (size_t i = 0; i < patch.size(); i++) patch[i] += in[i] * across.shares[tap];
      }
      const int64_t tile = y / ratio * grid.first + x / ratio, inside = y % ratio * ratio + x % ratio;
      std::copy(patch.begin(), patch.end(), found.begin() + (tile * of_tile + inside) * width);
    }
  }
  return found;
}

std::vector<float> bucketed(const Grid& grid, int64_t ratio, const std::vector<float>& table, int64_t side) {
  const int64_t width = int64_t(table.size()) / (side * side), rows = grid.second * ratio, columns = grid.first * ratio;
  std::vector<float> found(size_t(rows * columns * width));
  for (int64_t y = 0; y < rows; y++)
    for (int64_t x = 0; x < columns; x++) {
      const int64_t tile = y / ratio * grid.first + x / ratio, inside = y % ratio * ratio + x % ratio;
      const auto from = table.begin() + (y * side / rows * side + x * side / columns) * width;
      std::copy(from, from + width, found.begin() + (tile * ratio * ratio + inside) * width);
    }
  return found;
}

std::vector<float> sincos_rows(const Grid& grid, int64_t width) {
  const int64_t quarter = width / 4;
  std::vector<float> found(size_t(grid.first * grid.second * 4 * quarter));
  for (int64_t at = 0; at < quarter; at++) {
    const auto frequency = float(1 / std::pow(10000.0, double(float(at) / float(quarter))));
    for (int64_t tile = 0; tile < grid.first * grid.second; tile++) {
      float* row = &found[size_t(tile * 4 * quarter + at)];
      const float column = float(tile % grid.first) * frequency, down = float(tile / grid.first) * frequency;
      row[0] = std::sin(column), row[quarter] = std::cos(column);
      row[2 * quarter] = std::sin(down), row[3 * quarter] = std::cos(down);
    }
  }
  return found;
}

}  // namespace pocketvlm
