// What may end the process that does it is tried in another one first, and the verdict kept: it costs a crash once.
#pragma once

#include <functional>
#include <optional>
#include <string>

namespace pocketvlm {

// Does `work` in a child process. How that ended, in words, where it was not well: a signal, an error's line, or that it
// took more than so many seconds. Other threads are not in the child: `work` must not wait for what they hold. Failure:
// other, where there can be no child.
std::optional<std::string> attempt(const std::function<void()>& work, double limit_s);

// What is known of an attempt, in a file of its own; "" for the folder keeps nothing.
class Verdict {
 public:
  // `key` says what was tried: other keys, other files.
  Verdict(const std::string& folder, const std::string& key);
  enum State { unknown, works, fails };
  State state() const { return state_; }
  const std::string& reason() const { return reason_; }
  // Before an attempt: who finds this later knows that nobody saw its end.
  void begin();
  void end(const std::optional<std::string>& reason);

 private:
  void write(const std::string& line) const;
  std::string path_, reason_;
  State state_ = unknown;
};

}  // namespace pocketvlm
