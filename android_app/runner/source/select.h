// The engine that is to run a bundle here: the one that is asked for, or the best by the bundle's preference that this
// machine has all of, and that lived through its first step in another process.
#pragma once

#include <memory>
#include <string>

#include "engine.h"

namespace pocketvlm {

struct EngineOptions {
  std::string library;  // of ONNX Runtime
  int threads = 4;
  std::string engine;       // "": by preference
  std::string cache;        // a folder where it is kept which engines work; "": nowhere
  double try_limit_s = 60;  // for the first load and step of one that may end its process
};

struct SelectedEngine {
  std::unique_ptr<Engine> engine;
  std::string name;
  std::vector<std::pair<std::string, std::string>> skipped;  // better engines, each with why not
};

// Failure: as of open_engine; bundle, where no engine of the bundle runs here, with each one's reason.
SelectedEngine select_engine(const Bundle& bundle, const EngineOptions& options);

// What this machine has of what is wanted; the chip is asked for where somebody wants one.
MachineFacts facts_here(const std::vector<PreferredEngine>& wanted);

}  // namespace pocketvlm
