#include "native.h"

#include <cstring>

namespace pocketvlm {
namespace {

// A file of float32, whose bytes the manifest has counted.
std::vector<float> read_floats(const Bundle& bundle, const std::string& name) {
  const std::string bytes = read_file(bundle.path(name), bundle.manifest.files.at(name).bytes, Failure::bundle);
  std::vector<float> found(bytes.size() / sizeof(float));
  std::memcpy(found.data(), bytes.data(), found.size() * sizeof(float));
  return found;
}

}  // namespace

NativeVision::NativeVision(const Bundle& bundle)
    : native_(*bundle.manifest.vision->patches), ratio_(bundle.manifest.vision->downsample_ratio),
      hidden_(bundle.manifest.hidden_size) {
  if (!native_.table.empty()) table_ = read_floats(bundle, native_.table);
}

std::optional<std::vector<float>> NativeVision::rows(const Grid& grid) const {
  if (native_.table.empty()) return std::nullopt;
  const auto laid_over = native_.table_by_axis    ? by_axis
                         : native_.table_bucketed ? bucketed
                         : native_.table_resized  ? antialiased
                                                  : interpolated;
  return laid_over(grid, ratio_, table_, *native_.table_side);
}

PicturePlace NativeVision::place(const Grid& grid) const {
  auto [cos, sin] = axial_rope(grid, ratio_, native_.head_dim, native_.rope_theta);
  PicturePlace found{grid.first * grid.second, std::move(cos), std::move(sin), std::nullopt, {}};
  if (native_.window) found.windows = windows_of(grid, *native_.window, ratio_);
  if (native_.queries) found.key_rows = sincos_rows(grid, hidden_);
  return found;
}

TokenRope::TokenRope(const Bundle& bundle)
    : length_(bundle.manifest.kv_length),
      axes_(axis_of_pairs(bundle.manifest.positions->sections, bundle.manifest.positions->interleaved)),
      table_(read_floats(bundle, bundle.manifest.positions->rope)) {}

void TokenRope::rows(const Positions& positions, std::vector<float>& cos, std::vector<float>& sin) const {
  const size_t count = axes_.size(), half = table_.size() / 2;
  cos.resize(positions.size() * count), sin.resize(cos.size());
  for (size_t token = 0; token < positions.size(); token++)
    for (size_t pair = 0; pair < count; pair++) {
      const int64_t at = positions[token][axes_[pair]];
      if (at < 0 || at >= length_)
        throw Error(Failure::misfit, "a token's position is " + std::to_string(at) + ", this bundle's table has " +
                                         std::to_string(length_));
      const size_t from = size_t(at) * count + pair;
      cos[token * count + pair] = table_[from], sin[token * count + pair] = table_[half + from];
    }
}

}  // namespace pocketvlm
