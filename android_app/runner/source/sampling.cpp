#include "sampling.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstring>
#include <string>
#include <utility>

#include "error.h"

namespace pocketvlm {
namespace {

// One number that sorts as the rule wants: by logit, largest first, equal logits by lower id.
uint64_t sort_key(float logit, size_t id) {
  uint32_t bits;
  logit += 0.0f;  // -0 equals 0
  std::memcpy(&bits, &logit, sizeof bits);
  bits = bits & 0x80000000u ? bits : ~(bits | 0x80000000u);
  return uint64_t(bits) << 32 | uint64_t(id);
}

// Steps 2 to 4: sort keys of the tokens that may be chosen, and the cumulative sums of their weights.
std::pair<std::vector<uint64_t>, std::vector<double>> candidates(const float* logits, size_t count,
                                                                 const Sampling& rule) {
  std::vector<uint64_t> keys(count);
  for (size_t id = 0; id < count; id++) keys[id] = sort_key(logits[id], id);
  if (rule.top_k > 0 && uint64_t(rule.top_k) < count) {
    std::nth_element(keys.begin(), keys.begin() + rule.top_k, keys.end());
    keys.resize(size_t(rule.top_k));
  }
  std::sort(keys.begin(), keys.end());
  const double largest = logits[uint32_t(keys[0])];
  std::vector<double> sums;
  sums.reserve(keys.size());
  double sum = 0;
  for (const uint64_t key : keys) {
    sum += std::exp((double(logits[uint32_t(key)]) - largest) / rule.temperature);
    sums.push_back(sum);
  }
  if (rule.top_p < 1) {
    const auto crossing = std::lower_bound(sums.begin(), sums.end(), rule.top_p * sum);
    sums.resize(std::min(sums.size(), size_t(crossing - sums.begin()) + 1));
    keys.resize(sums.size());
  }
  return {std::move(keys), std::move(sums)};
}

}  // namespace

void check_sampling(const Sampling& rule) {
  const auto finite_from_0 = [](double value) { return value >= 0 && value <= DBL_MAX; };
  if (!finite_from_0(rule.temperature) || rule.top_k < 0 || !(rule.top_p > 0 && rule.top_p <= 1) ||
      !finite_from_0(rule.repetition_penalty) || rule.repetition_penalty == 0)
    throw Error(Failure::usage, "temperature, top_k, top_p or repetition_penalty is out of range");
  for (const auto& [id, bias] : rule.logit_bias)
    if (id < 0 || !(std::abs(bias) <= 100)) throw Error(Failure::usage, "logit_bias must have biases from -100 to 100");
}

uint64_t SplitMix64::next() {
  uint64_t value = state_ += 0x9E3779B97F4A7C15;
  value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9;
  value = (value ^ value >> 27) * 0x94D049BB133111EB;
  return value ^ value >> 31;
}

Sampler::Sampler(Sampling sampling, const std::vector<int64_t>& seen, int64_t vocabulary)
    : sampling_(std::move(sampling)), random_(sampling_.seed), vocabulary_(size_t(vocabulary)) {
  check_sampling(sampling_);
  if (!sampling_.logit_bias.empty() && sampling_.logit_bias.rbegin()->first >= vocabulary)
    throw Error(Failure::misfit, "logit_bias has token " + std::to_string(sampling_.logit_bias.rbegin()->first) +
                                     ", the model's vocabulary has " + std::to_string(vocabulary));
  if (sampling_.repetition_penalty == 1) return;
  for (const int64_t id : seen)
    if (id >= 0 && id < vocabulary) seen_.insert(id);
}

const float* Sampler::adjusted(const float* logits) {
  if (sampling_.repetition_penalty == 1 && sampling_.logit_bias.empty()) return logits;
  changed_.assign(logits, logits + vocabulary_);
  const auto change = [&](size_t id, double penalty, double bias) {
    const double before = logits[id];
    if (!std::isfinite(before)) return;
    const double after = (before > 0 ? before / penalty : before * penalty) + bias;
    changed_[id] = float(std::clamp(after, -double(FLT_MAX), double(FLT_MAX)));
  };
  for (const int64_t id : seen_) change(size_t(id), sampling_.repetition_penalty, 0);
  for (const auto& [id, bias] : sampling_.logit_bias)
    change(size_t(id), seen_.count(id) != 0 ? sampling_.repetition_penalty : 1, bias);
  return changed_.data();
}

int32_t Sampler::choose(const float* given) {
  const float* logits = adjusted(given);
  size_t chosen = argmax(logits, vocabulary_);
  if (!std::isfinite(logits[chosen]))
    throw Error(Failure::other, "the model's logits are not numbers: export it again");
  if (sampling_.temperature > 0) {
    const auto [keys, sums] = candidates(logits, vocabulary_, sampling_);
    const double threshold = random_.next_double() * sums.back();
    const size_t index = size_t(std::upper_bound(sums.begin(), sums.end(), threshold) - sums.begin());
    chosen = uint32_t(keys[std::min(index, keys.size() - 1)]);
  }
  if (sampling_.repetition_penalty != 1) seen_.insert(int64_t(chosen));
  return int32_t(chosen);
}

size_t argmax(const float* logits, size_t count) {
  // Lanes of their own let the compiler use vectors without reordering anything that matters.
  constexpr size_t kLanes = 16;
  float largest[kLanes];
  int unordered[kLanes] = {};
  std::fill_n(largest, kLanes, -INFINITY);
  for (size_t id = 0; id + kLanes <= count; id += kLanes)
    for (size_t lane = 0; lane < kLanes; lane++) {
      const float logit = logits[id + lane];
      largest[lane] = logit > largest[lane] ? logit : largest[lane];
      unordered[lane] |= logit != logit;
    }
  for (size_t id = count - count % kLanes; id < count; id++) {
    largest[0] = std::max(largest[0], logits[id]);
    unordered[0] |= std::isnan(logits[id]);
  }
  if (*std::max_element(unordered, unordered + kLanes) != 0)
    return size_t(std::find_if(logits, logits + count, [](float logit) { return std::isnan(logit); }) - logits);
  return size_t(std::find(logits, logits + count, *std::max_element(largest, largest + kLanes)) - logits);
}

}  // namespace pocketvlm
