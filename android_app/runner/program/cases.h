// What is timed of a loaded bundle, each kind of case as a function that is called again and again.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "conversation.h"
#include "events.h"
#include "plan.h"

namespace pocketvlm {

// What the cases share. The model is closed for loads and opened again for what follows.
struct Workbench {
  const Plan& plan;
  const Bundle& bundle;
  const Library& library;
  const std::string engine_name;
  const std::vector<uint8_t>& tiles;  // uint8 [count, tile, tile, 3]
  Watch& watch;
  std::unique_ptr<Engine> engine;
  std::unique_ptr<Cache> cache;

  Engine& opened();
  void close();
};

// Seconds of each repetition, and how many tokens each was. Failure: interrupted.
struct Timed {
  std::vector<double> seconds;
  int64_t tokens;
};
Timed run_case(const Case& one, Workbench& bench);

}  // namespace pocketvlm
