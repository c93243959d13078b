#include "events.h"

#include <poll.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>

#include "machine.h"

namespace pocketvlm {
namespace {

constexpr auto kLookEvery = std::chrono::milliseconds(100);
constexpr double kGrace = 20;  // seconds that a step may still take

// Whether stdout is a pipe, socket or terminal whose other end is closed. adbd tells the shell alone that the host has
// gone away: a long case would go on for nobody.
bool nobody_reads() {
  pollfd out{STDOUT_FILENO, 0, 0};
  return poll(&out, 1, 0) == 1 && (out.revents & (POLLERR | POLLHUP)) != 0;
}

}  // namespace

void print_event(const std::string& event, nlohmann::json values) {
  static std::mutex printing;
  values["event"] = event;
  // What comes from files of the machine need not be UTF-8.
  const std::string line = values.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace) + "\n";
  const std::lock_guard<std::mutex> lock(printing);
  std::fwrite(line.data(), 1, line.size(), stdout);
  std::fflush(stdout);
}

Watch::Watch(const Plan& plan, std::string stop_path)
    : limit_(plan.time_limit_s), stop_path_(std::move(stop_path)), thread_([this] { look(); }) {}

Watch::~Watch() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    done_ = true;
  }
  ended_.notify_all();
  thread_.join();
}

void Watch::watch_over(Conversation* conversation) {
  const std::lock_guard<std::mutex> lock(mutex_);
  conversation_ = conversation;
}

void Watch::look() {
  double stopped_at = 0;
  std::unique_lock<std::mutex> lock(mutex_);
  while (!done_) {
    if (nobody_reads()) _exit(kStopped);
    if (!stop_) {
      if (!stop_path_.empty() && access(stop_path_.c_str(), F_OK) == 0) status_ = kStopped;
      else if (seconds() > limit_) status_ = kOutOfTime;
      stop_ = status_ != 0;
      stopped_at = seconds();
    }
    // Each time: a prefill that begins forgets what it was told before.
    if (stop_ && conversation_ != nullptr) conversation_->cancel();
    if (stop_ && seconds() > stopped_at + kGrace) {
      print_event("end", {{"status", name(status_)}, {"load_after", load_average()}});
      _exit(status_);
    }
    ended_.wait_for(lock, kLookEvery);
  }
}

}  // namespace pocketvlm
