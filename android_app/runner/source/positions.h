// Positions of tokens along three axes, M-RoPE: pocketvlm/images/positions.py.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "manifest.h"

namespace pocketvlm {

inline constexpr size_t kAxes = 3;
using Positions = std::vector<std::array<int64_t, kAxes>>;  // of tokens

// Of a prompt whose tokens are of the picture with that index, -1: of text. `grids`: (across, down) in tokens. The text
// behind a picture goes on behind the largest of its positions, which is so never larger than the token's place; that
// holds for a picture that a rewind cut as well.
Positions positions_of(const std::vector<int32_t>& picture_index, const std::vector<Grid>& grids);

// Those of text, from `first` on.
Positions along_text(int64_t first, int64_t tokens);

// The axis by which each pair of a head's channels turns.
std::vector<size_t> axis_of_pairs(const std::vector<int64_t>& sections, bool interleaved);

}  // namespace pocketvlm
