// How the next token is chosen: the portable rule of runtime/sampling.py, held by tests/golden/sampling.json.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <set>
#include <vector>

namespace pocketvlm {

struct Sampling {
  double temperature = 0, top_p = 1, repetition_penalty = 1;
  int64_t top_k = 0;
  uint64_t seed = 0;
  std::map<int32_t, double> logit_bias;
  bool lookup = false;  // chooses nothing: how tokens are computed (lookup.h)
};

// Failure: usage, where a field is out of range.
void check_sampling(const Sampling& sampling);

// Random numbers: Steele, Lea, Flood, OOPSLA 2014; constants as in Vigna's splitmix64.c.
class SplitMix64 {
 public:
  explicit SplitMix64(uint64_t seed) : state_(seed) {}
  uint64_t next();
  double next_double() { return double(next() >> 11) * 0x1p-53; }

 private:
  uint64_t state_;
};

// Chooses the tokens of one answer. `seen`: the prompt's text tokens; those chosen here are added.
class Sampler {
 public:
  Sampler(Sampling sampling, const std::vector<int64_t>& seen, int64_t vocabulary);
  // float32 [vocabulary] -> token id. Failure: other, where the logits are no numbers.
  int32_t choose(const float* logits);
  // Step 0 of the rule alone; gives the logits to choose from.
  const float* adjusted(const float* logits);

 private:
  Sampling sampling_;
  SplitMix64 random_;
  size_t vocabulary_;
  std::set<int64_t> seen_;
  std::vector<float> changed_;
};

// The lowest id among the largest logits; of NaN where there is one.
size_t argmax(const float* logits, size_t count);

}  // namespace pocketvlm
