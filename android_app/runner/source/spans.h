// Which tokens of a prompt see more than what was before them, and the chunks in which such ones are computed.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace pocketvlm {

// The last place of the cache that each token may see, of a prompt whose tokens are of the picture with that index, -1:
// of text. `spans`: "none", "image" (a run of image tokens see each other) or "prompt" (all do).
std::vector<int64_t> last_seen_of(const std::vector<int32_t>& pictures, const std::string& spans);
// The first token of the span that `at` is in.
int64_t begin_of_span(const std::vector<int64_t>& last_seen, int64_t at);
// One past the last token of the chunk that begins at `first` and has at most `most` tokens, but no span in part: it ends
// before one that it cannot take whole, and is longer where it begins with such a one.
int64_t end_of_chunk(const std::vector<int64_t>& last_seen, int64_t first, int64_t most);

}  // namespace pocketvlm
