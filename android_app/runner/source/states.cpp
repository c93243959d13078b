#include "states.h"

#include <algorithm>

namespace pocketvlm {
namespace {

// As pocketvlm/bundle/defaults.py.
constexpr size_t kMostCopies = 4;

State zeros(const char* name, int64_t layer, std::vector<int64_t> shape) {
  size_t size = 1;
  for (const int64_t one : shape) size *= size_t(one);  // each at most 2^20, and there are graphs of them
  return {name + std::to_string(layer), std::move(shape), std::vector<float>(size), std::vector<float>(size)};
}

}  // namespace

States::States(const Manifest& manifest) {
  for (int64_t layer = 0; layer < manifest.layers; layer++) {
    const LayerCache& cache = manifest.caches[size_t(layer)];
    if (cache.kind != LayerCache::state) continue;
    arrays_.push_back(zeros("conv.", layer, cache.rows_shape()));
    arrays_.push_back(zeros("state.", layer, cache.matrix_shape()));
  }
}

void States::flip() {
  for (State& one : arrays_) one.present.swap(one.next);
}

void States::keep(int64_t position) {
  const auto is_there = [&](const Copy& one) { return one.position == position; };
  if (empty() || position == 0 || std::any_of(copies_.begin(), copies_.end(), is_there)) return;
  if (copies_.size() == kMostCopies) copies_.pop_front();
  Copy copy{position, {}};
  for (const State& one : arrays_) copy.arrays.push_back(one.present);
  copies_.push_back(std::move(copy));
}

int64_t States::rewind(int64_t position) {
  while (!copies_.empty() && copies_.back().position > position) copies_.pop_back();
  for (size_t i = 0; i < arrays_.size(); i++) {
    std::vector<float>& present = arrays_[i].present;
    if (copies_.empty()) std::fill(present.begin(), present.end(), 0.0F);
    else present = copies_.back().arrays[i];
  }
  return copies_.empty() ? 0 : copies_.back().position;
}

}  // namespace pocketvlm
