// What the runner prints, and what ends it early: the clock and the stop file.
#pragma once

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>

#include "conversation.h"
#include "plan.h"

namespace pocketvlm {

// Exit statuses beside those of Failure.
constexpr int kMismatch = 5, kStopped = 6, kOutOfTime = 7;

// One object on one line of stdout, whole and at once.
void print_event(const std::string& event, nlohmann::json values);

// Looks at the clock and the stop file while the plan runs. Work asks `stop` between its steps; one that does not end
// within some seconds is ended with the process, its last line printed. Where nobody reads stdout, all ends at once.
class Watch {
 public:
  Watch(const Plan& plan, std::string stop_path);
  ~Watch();
  const std::atomic<bool>& stop() const { return stop_; }
  void check() const {
    if (stop_) throw Error(Failure::interrupted, "the run was ended");
  }
  double seconds() const { return now() - start_; }
  // What also has to be told: a conversation, or none.
  void watch_over(Conversation* conversation);
  // The exit status with which the run ends early, and its name.
  int status() const { return status_; }
  static const char* name(int status) { return status == kStopped ? "stopped" : "time limit"; }

 private:
  void look();
  const double start_ = now(), limit_;
  const std::string stop_path_;
  std::atomic<bool> stop_{false};
  std::atomic<int> status_{0};
  std::mutex mutex_;
  std::condition_variable ended_;
  bool done_ = false;
  Conversation* conversation_ = nullptr;
  std::thread thread_;
};

}  // namespace pocketvlm
