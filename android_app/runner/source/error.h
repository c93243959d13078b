// Every failure as one line that says what is wrong, and the exit status that the runner gives it.
#pragma once

#include <stdexcept>
#include <string>
#include <string_view>

namespace pocketvlm {

// The numbers are the runner's exit statuses (docs/device-runs.md) and pocketvlm_status of the C API.
enum class Failure { other = 1, usage = 2, bundle = 3, library = 4, interrupted = 6, misfit = 8 };

class Error : public std::runtime_error {
 public:
  Error(Failure failure, const std::string& line) : std::runtime_error(line), failure_(failure) {}
  Failure failure() const { return failure_; }

 private:
  Failure failure_;
};

// Foreign text for an error's line: printable ASCII, white space collapsed, at most `most` characters.
std::string one_line(std::string_view text, size_t most = 300);

}  // namespace pocketvlm
