// An NPU's program, as runtime/engines/npu_program.py runs it: how a prompt becomes steps of fixed lengths, tiles batches
// of fixed sizes, and what each step is given beside its tokens.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

namespace pocketvlm {

// The steps that `count` tokens behind `position` take: tokens of the graph, and how many of them are real.
std::vector<std::pair<int64_t, int64_t>> npu_steps(int64_t position, int64_t count, int64_t prefill, int64_t length);

// How so many tiles are shared out to batches of those sizes, the largest first. Failure: bundle, where some are left.
std::vector<int64_t> npu_batches(int64_t tiles, std::vector<int64_t> sizes);

// float32 [tokens, length + tokens]: a token sees the cache's last `position` rows, those before it in the step, and
// itself.
std::vector<float> npu_mask(int64_t position, int64_t tokens, int64_t length, double hidden);

// [heads, length, size] without its last `count` rows: the others moved to the end, zeros in front.
void take_back(int8_t* rows, int64_t heads, int64_t length, int64_t size, int64_t count);

}  // namespace pocketvlm
