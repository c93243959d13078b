#include "lookup.h"

#include <algorithm>
#include <cstddef>

namespace pocketvlm {
namespace {

// So many last tokens are looked up.
constexpr size_t kNgram = 3;
// Tokens of a draft: one; after each that holds whole, the next.
constexpr int64_t kLengths[] = {1, 3, 7, 15};
constexpr size_t kLongest = std::size(kLengths) - 1;
// How much of its time an answer may lose on drafts, and how many plain steps before that; no more are saved up.
constexpr double kShare = 0.015, kStake = 0.5, kMostCredit = 4;
// Weight of the newest plain step in what one costs.
constexpr double kNewest = 0.2;

}  // namespace

std::optional<std::vector<int64_t>> Lookup::last() const {
  if (tokens_.size() < kNgram) return std::nullopt;
  std::vector<int64_t> ngram(tokens_.end() - ptrdiff_t(kNgram), tokens_.end());
  if (*std::min_element(ngram.begin(), ngram.end()) < 0) return std::nullopt;
  return ngram;
}

void Lookup::see(int64_t token) {
  if (const auto ngram = last()) behind_[*ngram] = tokens_.size();
  tokens_.push_back(token);
}

std::vector<int64_t> Lookup::draft(int64_t most) const {
  std::vector<int64_t> drafted;
  const auto ngram = last();
  const auto found = ngram ? behind_.find(*ngram) : behind_.end();
  if (found == behind_.end()) return drafted;
  for (size_t source = found->second; int64_t(drafted.size()) < most; source++) {
    // A text that repeats itself goes on with what was drafted.
    const int64_t token = source < tokens_.size() ? tokens_[source] : drafted[source - tokens_.size()];
    if (token < 0) break;
    drafted.push_back(token);
  }
  return drafted;
}

int64_t Pace::most() const { return plain_s_ && credit_s_ > 0 ? kLengths[length_] : 0; }

void Pace::took(double seconds, int64_t drafted, int64_t held) {
  double gain = kShare * seconds;
  if (drafted == 0) {
    if (!plain_s_) credit_s_ = kStake * seconds;
    plain_s_ = plain_s_ ? *plain_s_ + kNewest * (seconds - *plain_s_) : seconds;
  } else {
    gain = double(1 + held) * plain_s_.value_or(0) - seconds;
    const auto* fitting = std::find_if(std::begin(kLengths), std::end(kLengths),
                                       [&](int64_t length) { return length >= std::max<int64_t>(held, 1); });
    const auto whole = size_t(held == drafted);
    length_ = std::min(size_t(fitting - std::begin(kLengths)) + whole, kLongest);
  }
  credit_s_ = std::min(credit_s_ + gain, kMostCredit * plain_s_.value_or(0));
}

}  // namespace pocketvlm
