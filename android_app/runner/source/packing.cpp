#include "packing.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>

namespace pocketvlm {
namespace {

constexpr double kLenience = 1.1;

// Python's int(round(value, 7)) of what is not negative: the decimal that is nearest, without what follows its point.
int64_t whole(double value) {
  char text[64];
  std::snprintf(text, sizeof text, "%.7f", value);
  return std::strtoll(text, nullptr, 10);
}

// Python's value // by of what is not negative.
int64_t floor_division(double value, double by) {
  const double quotient = (value - std::fmod(value, by)) / by, below = std::floor(quotient);
  return int64_t(quotient - below > 0.5 ? below + 1 : below);
}

// Of one axis: the first of the two that are mixed, and the second one's share.
struct Tap {
  int64_t first, second;
  float share;
};

std::vector<Tap> taps(int64_t length, int64_t count) {
  std::vector<Tap> found;
  for (int64_t at = 0; at < count; at++) {
    const double place = std::max((double(at) + 0.5) * (double(length) / double(count)) - 0.5, 0.0);
    const auto first = int64_t(place);
    if (count == length) found.push_back({at, at, 0.0f});
    else found.push_back({first, std::min(first + 1, length - 1), float(place - double(first))});
  }
  return found;
}

float mixed(float before, float behind, float share) { return before * (1.0f - share) + behind * share; }

}  // namespace

Packed packed(const Size& size, const Grid& grid, int64_t side, std::optional<int64_t> most_tiles) {
  const auto width = double(size.first), height = double(size.second);
  const int64_t across = grid.first * side, down = grid.second * side;
  int64_t left = 0, top = 0;
  if (width / height > double(across) / double(down)) top = (down - whole(height * (double(across) / width))) / 2;
  else left = (across - whole(width * (double(down) / height))) / 2;
  const Size kept{across - 2 * left, down - 2 * top};
  Size shown = kept;
  if (most_tiles) {
    const double ratio = std::sqrt(double(kept.first * kept.second) / double(*most_tiles * side * side));
    if (ratio > kLenience)
      shown = {floor_division(double(kept.first), ratio), floor_division(double(kept.second), ratio)};
  }
  return {side, grid, {left, top}, kept, shown};
}

std::vector<float> pack(const std::vector<float>& tokens, const Packed& plan, const std::vector<float>& newline) {
  const int64_t side = plan.side, hidden = int64_t(newline.size());
  std::vector<float> result(size_t(plan.tokens() * hidden));
  float* out = std::copy_n(tokens.data(), side * side * hidden, result.data());
  // The token at this place of all tiles', which lie side by side.
  const auto at = [&](int64_t row, int64_t column) {
    const int64_t y = plan.corner.second + row, x = plan.corner.first + column;
    const int64_t tile = 1 + y / side * plan.grid.first + x / side;
    return &tokens[size_t(((tile * side + y % side) * side + x % side) * hidden)];
  };
  const std::vector<Tap> rows = taps(plan.kept.second, plan.size.second);
  const std::vector<Tap> columns = taps(plan.kept.first, plan.size.first);
  for (const Tap& row : rows) {
    for (const Tap& column : columns) {
      const float *first = at(row.first, column.first), *right = at(row.first, column.second);
      const float *below = at(row.second, column.first), *last = at(row.second, column.second);
      for (int64_t i = 0; i < hidden; i++)
        *out++ = mixed(mixed(first[i], below[i], row.share), mixed(right[i], last[i], row.share), column.share);
    }
    out = std::copy(newline.begin(), newline.end(), out);
  }
  return result;
}

}  // namespace pocketvlm
