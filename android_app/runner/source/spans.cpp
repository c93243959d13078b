#include "spans.h"

#include <algorithm>

namespace pocketvlm {

std::vector<int64_t> last_seen_of(const std::vector<int32_t>& pictures, const std::string& spans) {
  const auto count = int64_t(pictures.size());
  std::vector<int64_t> found(pictures.size());
  for (int64_t at = count - 1; at >= 0; at--) {
    const bool goes_on = at + 1 < count && pictures[size_t(at)] >= 0 && pictures[size_t(at) + 1] >= 0;
    found[size_t(at)] = spans == "prompt" ? count - 1 : spans == "image" && goes_on ? found[size_t(at) + 1] : at;
  }
  return found;
}

int64_t begin_of_span(const std::vector<int64_t>& last_seen, int64_t at) {
  return std::lower_bound(last_seen.begin(), last_seen.end(), last_seen[size_t(at)]) - last_seen.begin();
}

int64_t end_of_chunk(const std::vector<int64_t>& last_seen, int64_t first, int64_t most) {
  const int64_t end = std::min(first + most, int64_t(last_seen.size())), bound = last_seen[size_t(end) - 1];
  if (bound < end) return end;
  const int64_t begin = begin_of_span(last_seen, end - 1);
  return begin > first ? begin : bound + 1;
}

}  // namespace pocketvlm
