// States of a conversation, as runtime/states.py has them: what some layers keep of all tokens so far, and copies of it to
// go back to.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "manifest.h"

namespace pocketvlm {

// One array of a layer's state, float32: `shape`, and twice its numbers, since a step reads one and writes the other.
struct State {
  std::string name;  // conv.N or state.N of layer N
  std::vector<int64_t> shape;
  std::vector<float> present, next;
};

class States {
 public:
  // Zeros.
  explicit States(const Manifest& manifest);
  bool empty() const { return arrays_.empty(); }
  std::vector<State>& arrays() { return arrays_; }
  // What the last step wrote is the state now.
  void flip();
  // Keeps a copy of the state, which is that behind `position` tokens; the lowest one goes where there are many.
  void keep(int64_t position);
  // Goes back to the last copy that is not behind `position`, or to the beginning; gives where that is.
  int64_t rewind(int64_t position);

 private:
  struct Copy {
    int64_t position;
    std::vector<std::vector<float>> arrays;
  };
  std::vector<State> arrays_;
  std::deque<Copy> copies_;  // by position
};

}  // namespace pocketvlm
