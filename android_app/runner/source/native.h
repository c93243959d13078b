// What graphs take beside pixels and embeddings where pictures have their own resolution, or tokens three positions:
// runtime/native.py.
#pragma once

#include <optional>
#include <vector>

#include "bundle.h"
#include "patches.h"
#include "positions.h"

namespace pocketvlm {

// Where the patches of a picture stand.
struct PicturePlace {
  int64_t tiles;
  std::vector<float> cos, sin;  // [tiles, patches, head_dim / 2]
  std::optional<Windows> windows;
  std::vector<float> key_rows;  // [tiles, 1, hidden], of a resampler; else none
};

// What a tower of native resolution takes beside a picture's tiles.
class NativeVision {
 public:
  // Of a bundle whose vision has patches. Failure: bundle, where its table cannot be read.
  explicit NativeVision(const Bundle& bundle);
  // What is added to the patches of a picture of `grid` tiles, float32 [tiles, patches, vision width]; nothing: none.
  std::optional<std::vector<float>> rows(const Grid& grid) const;
  PicturePlace place(const Grid& grid) const;

 private:
  const PatchPictures native_;
  const int64_t ratio_, hidden_;
  std::vector<float> table_;
};

// cos and sin of tokens with a position on each of three axes, out of a bundle's table.
class TokenRope {
 public:
  // Of a bundle with positions. Failure: bundle, where its table cannot be read.
  explicit TokenRope(const Bundle& bundle);
  int64_t pairs() const { return int64_t(axes_.size()); }
  // float32 [tokens, pairs] each. Failure: misfit, where a position is none of the table's.
  void rows(const Positions& positions, std::vector<float>& cos, std::vector<float>& sin) const;

 private:
  const int64_t length_;
  const std::vector<size_t> axes_;
  const std::vector<float> table_;  // [2, length, pairs]
};

}  // namespace pocketvlm
