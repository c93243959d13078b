// The runner's plan, pocketvlm-device-plan/1 (docs/device-runs.md): what is to be answered and timed.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "bundle.h"
#include "sampling.h"

namespace pocketvlm {

// Why an answer has no form here; empty where `name` is none of the ways to ask for one (runtime/constraints.py).
std::string refusal_of_form(std::string_view name);

struct PlannedTiles {
  std::string file, name;
  int64_t count;
};

struct PlannedAnswer {
  TokenIds token_ids;
  Sampling sampling;
  int64_t max_new_tokens, logits;
  std::optional<TokenIds> expected;
};

enum class CaseKind {
  load_cold,
  load_warm,
  patch_embedding,
  vision_encoder,
  image,
  first_token,
  prefill,
  decode,
  both
};

struct Case {
  std::string name, phase;
  CaseKind kind;
  std::optional<int64_t> batch, chunk;
  bool pipelined = true;
  TokenIds token_ids, depth_token_ids;
  int64_t prompt = 0;
};

struct Plan {
  int threads;
  std::vector<int> cpus;
  int64_t warmups, repeats;
  double time_limit_s;
  std::optional<std::string> stop_file;
  std::optional<PlannedTiles> tiles;
  std::optional<PlannedAnswer> answer;
  std::vector<Case> cases;
};

constexpr int64_t kMaxPlanBytes = 16 << 20;

// Failure: usage, naming the key that is wrong.
Plan parse_plan(std::string_view text);

// Failure: misfit, where the bundle cannot run the plan: tokens, tiles, the KV cache's length.
void check_fits(const Plan& plan, const Manifest& manifest);

}  // namespace pocketvlm
