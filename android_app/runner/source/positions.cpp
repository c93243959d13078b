#include "positions.h"

#include <algorithm>

namespace pocketvlm {

Positions positions_of(const std::vector<int32_t>& picture_index, const std::vector<Grid>& grids) {
  Positions found;
  found.reserve(picture_index.size());
  int64_t at = 0;
  for (size_t first = 0, end; first < picture_index.size(); first = end) {
    const int32_t index = picture_index[first];
    end = first + 1;
    if (index < 0) {
      found.push_back({at, at, at});
      at++;
      continue;
    }
    const auto [across, down] = grids[size_t(index)];
    const auto whole = size_t(across * down);
    while (end < picture_index.size() && end - first < whole && picture_index[end] == index) end++;
    int64_t largest = at;
    for (int64_t place = 0; place < int64_t(end - first); place++) {
      const int64_t row = at + place / across, column = at + place % across;
      found.push_back({at, row, column});
      largest = std::max({largest, row, column});
    }
    at = largest + 1;
  }
  return found;
}

Positions along_text(int64_t first, int64_t tokens) {
  Positions found;
  for (int64_t at = first; at < first + tokens; at++) found.push_back({at, at, at});
  return found;
}

std::vector<size_t> axis_of_pairs(const std::vector<int64_t>& sections, bool interleaved) {
  std::vector<size_t> axes;
  for (size_t axis = 0; axis < sections.size(); axis++)
    axes.insert(axes.end(), size_t(sections[axis]), interleaved ? 0 : axis);
  if (!interleaved) return axes;
  for (size_t axis = 1; axis < sections.size(); axis++)
    for (size_t at = axis; at < std::min(axes.size(), sections.size() * size_t(sections[axis])); at += sections.size())
      axes[at] = axis;
  return axes;
}

}  // namespace pocketvlm
