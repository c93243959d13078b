#include "attempt.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <exception>
#include <sstream>

#include "bundle.h"
#include "sha256.h"

namespace pocketvlm {
namespace {

constexpr int kLookMs = 20;
constexpr size_t kMostReason = 300;
constexpr int64_t kMostRecord = 4096;

double seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// The child's whole life.
[[noreturn]] void be_child(const std::function<void()>& work, int says, pid_t parent) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(1);
  // A crash is what this process is for: no core, no handler of somebody else's, nothing on the parent's stdout.
  const rlimit none{0, 0};
  setrlimit(RLIMIT_CORE, &none);
  for (const int signal : {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGTERM}) std::signal(signal, SIG_DFL);
  const int nowhere = open("/dev/null", O_WRONLY | O_CLOEXEC);
  if (nowhere >= 0) dup2(nowhere, STDOUT_FILENO), dup2(nowhere, STDERR_FILENO);
  std::string reason;
  try {
    work();
    _exit(0);
  } catch (const std::bad_alloc&) {
    reason = "not enough memory";
  } catch (const std::exception& error) {
    reason = one_line(error.what(), kMostReason);
  } catch (...) {
    reason = "it failed";
  }
  const ssize_t written = write(says, reason.data(), reason.size());
  _exit(written < 0 ? 2 : 1);
}

// What the child has said so far.
void listen(int hears, std::string& said) {
  char block[kMostReason];
  for (ssize_t got; (got = read(hears, block, sizeof block)) > 0 || (got < 0 && errno == EINTR);)
    if (got > 0 && said.size() < kMostReason) said.append(block, size_t(got));
}

std::optional<std::string> ending(int status, const std::string& said) {
  if (WIFSIGNALED(status)) return "its process ended with signal " + std::to_string(WTERMSIG(status));
  if (WEXITSTATUS(status) == 0) return std::nullopt;
  return said.empty() ? "its process ended with exit status " + std::to_string(WEXITSTATUS(status))
                      : one_line(said, kMostReason);
}

}  // namespace

std::optional<std::string> attempt(const std::function<void()>& work, double limit_s) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) throw Error(Failure::other, "there is no pipe for another process");
  const pid_t parent = getpid(), child = fork();
  if (child == 0) be_child(work, ends[1], parent);
  close(ends[1]);
  if (child < 0) {
    close(ends[0]);
    throw Error(Failure::other, "no other process can be started");
  }
  fcntl(ends[0], F_SETFL, O_NONBLOCK);
  const double limit = seconds() + limit_s;
  std::string said;
  std::optional<std::string> ended;
  for (int status = 0;;) {
    const pid_t gone = waitpid(child, &status, WNOHANG);
    listen(ends[0], said);
    if (gone == child || (gone < 0 && errno != EINTR)) {
      ended = gone == child ? ending(status, said) : "nobody saw how its process ended";
      break;
    }
    if (seconds() > limit) {
      kill(child, SIGKILL);
      while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
      }
      std::ostringstream line;
      line << "it did not end within " << limit_s << " s";
      ended = line.str();
      break;
    }
    pollfd nothing{-1, 0, 0};
    poll(&nothing, 1, kLookMs);
  }
  close(ends[0]);
  return ended;
}

Verdict::Verdict(const std::string& folder, const std::string& key) {
  if (folder.empty()) return;
  Sha256 digest;
  digest.update(key);
  path_ = folder + "/engine-" + digest.hexadecimal() + ".verdict";
  std::string line;
  try {
    line = read_file(path_, kMostRecord, Failure::other);
  } catch (const Error&) {
    return;  // none, or one that says nothing
  }
  if (line == "works\n") state_ = works;
  // Whoever watched it went with it, or the phone did.
  else if (line == "running\n") state_ = fails, reason_ = "its process ended before it answered";
  else if (line.rfind("fails ", 0) == 0) state_ = fails, reason_ = one_line(line.substr(6), kMostReason);
}

void Verdict::begin() { write("running\n"); }

void Verdict::end(const std::optional<std::string>& reason) {
  state_ = reason ? fails : works, reason_ = reason.value_or("");
  write(reason ? "fails " + one_line(*reason, kMostReason) + "\n" : "works\n");
}

// Whole or not at all, and on the disk before this returns: what comes next may take the machine down.
void Verdict::write(const std::string& line) const {
  if (path_.empty()) return;
  mkdir(path_.substr(0, path_.rfind('/')).c_str(), 0700);
  const std::string part = path_ + "." + std::to_string(getpid());
  const int file = open(part.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
  const bool written = file >= 0 && ::write(file, line.data(), line.size()) == ssize_t(line.size()) && fsync(file) == 0;
  if (file >= 0) close(file);
  if (!written || std::rename(part.c_str(), path_.c_str()) != 0) {
    unlink(part.c_str());
    throw Error(Failure::other, one_line(path_, 200) + " cannot be written, and a crash is to cost once: give a folder that can");
  }
}

}  // namespace pocketvlm
