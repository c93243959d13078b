// Prompt lookup: what comes next, guessed from where the last tokens stood before; the rules of runtime/lookup.py.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <vector>

namespace pocketvlm {

// Tokens so far, and where each n-gram of them stood last. A negative token, a picture's, is in no n-gram.
class Lookup {
 public:
  // One more token of the prompt or the answer.
  void see(int64_t token);
  // At most so many tokens that followed the last ones where those stood before; none where they did not.
  std::vector<int64_t> draft(int64_t most) const;

 private:
  std::optional<std::vector<int64_t>> last() const;
  std::vector<int64_t> tokens_;
  std::map<std::vector<int64_t>, size_t> behind_;
};

// How long a draft may be: longer while drafts hold, none while they take more time than they give.
class Pace {
 public:
  // Tokens of the next draft. The first step is a plain one: what drafts are compared with.
  int64_t most() const;
  // A step took so many seconds, of whose draft so many tokens held.
  void took(double seconds, int64_t drafted, int64_t held);

 private:
  std::optional<double> plain_s_;
  double credit_s_ = 0;
  size_t length_ = 0;
};

}  // namespace pocketvlm
