#include "npu_program.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <string>

#include "error.h"

namespace pocketvlm {
namespace {

// A prompt's rest of at most so many tokens takes single steps, each of which is faster than a padded one.
constexpr int64_t kFewTokens = 4;

}  // namespace

std::vector<std::pair<int64_t, int64_t>> npu_steps(int64_t position, int64_t count, int64_t prefill, int64_t length) {
  std::vector<std::pair<int64_t, int64_t>> steps;
  while (count > 0) {
    int64_t tokens = prefill, real = std::min(prefill, count);
    // Padding is taken back only after the step, so a padded step needs room for all of its rows in the cache.
    if ((real <= kFewTokens && kFewTokens < prefill) || position + prefill > length) tokens = real = 1;
    steps.emplace_back(tokens, real);
    position += real, count -= real;
  }
  return steps;
}

std::vector<int64_t> npu_batches(int64_t tiles, std::vector<int64_t> sizes) {
  std::sort(sizes.begin(), sizes.end(), std::greater<>());
  std::vector<int64_t> batches;
  for (const int64_t size : sizes)
    for (; tiles >= size; tiles -= size) batches.push_back(size);
  if (tiles > 0)
    throw Error(Failure::bundle, std::to_string(tiles) + " tiles are left over: the program has no graph for one tile");
  return batches;
}

std::vector<float> npu_mask(int64_t position, int64_t tokens, int64_t length, double hidden) {
  const int64_t width = length + tokens;
  std::vector<float> mask(size_t(tokens * width), float(hidden));
  for (int64_t row = 0; row < tokens; row++) {
    const auto at = mask.begin() + row * width;
    std::fill(at + (length - position), at + length + row + 1, 0.0f);
  }
  return mask;
}

void take_back(int8_t* rows, int64_t heads, int64_t length, int64_t size, int64_t count) {
  if (count == 0) return;
  for (int64_t head = 0; head < heads; head++) {
    int8_t* block = rows + head * length * size;
    std::memmove(block + count * size, block, size_t((length - count) * size));
    std::memset(block, 0, size_t(count * size));
  }
}

}  // namespace pocketvlm
