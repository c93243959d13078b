// What the readers of graphs share: messages of onnx.proto, the table (pocketvlm/bundle/graphs/grammar.json), values.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "error.h"

namespace pocketvlm::graphs {

[[noreturn]] inline void refuse(const std::string& why) { throw Error(Failure::bundle, why); }
inline void refuse_if(bool condition, const char* why) {
  if (condition) refuse(why);
}

// --- Messages --------------------------------------------------------------------------------------------------------

class Message;

// One field's value: an integer, a float, text or bytes of the graph, or a message.
struct Field {
  int64_t integer = 0;
  float number = 0;
  std::string_view text;
  std::shared_ptr<Message> message;
};

// The fields that are there, by the names of the grammar.
class Message {
 public:
  bool has(std::string_view name) const { return !all(name).empty(); }
  const std::vector<Field>& all(std::string_view name) const;
  std::string text(std::string_view name) const;
  int64_t integer(std::string_view name, int64_t otherwise = 0) const;
  // Empty where it is not there.
  const Message& message(std::string_view name) const;
  std::vector<Field>& add(std::string_view name) { return fields_[name]; }
  const std::map<std::string_view, std::vector<Field>>& fields() const { return fields_; }

 private:
  std::map<std::string_view, std::vector<Field>> fields_;  // names are the grammar's
};

Message read_model(std::string_view graph);

// --- The table -------------------------------------------------------------------------------------------------------

// One input or output of an operator. Without `dims` a rule says, or any will do.
struct Pattern {
  bool absent = false, optional = false, single = false;
  std::string dtype;
  std::optional<std::vector<std::string>> dims;
};

// What an attribute may be: of a kind, and one of some values where they are listed.
struct Wanted {
  std::string kind;  // int, string, float (positive), size, sizes, branch
  std::vector<int64_t> integers;
  std::vector<std::string> texts;
  bool needed = true;
};

struct Form {
  std::map<std::string, Wanted> attributes;
  std::vector<Pattern> inputs, outputs;
  std::vector<std::string> types, times;
  std::string rule;
};

struct Operator {
  std::string domain;
  std::vector<Form> forms;
};

struct MessageField {
  std::string name, kind;
  bool repeated;
};

struct Grammar {
  std::vector<int64_t> ir_versions;
  std::map<std::string, std::vector<int64_t>> opsets;
  std::map<std::string, int64_t> bits;         // of an element, by the type's name
  std::map<int64_t, std::string> types;        // name, by ONNX's number
  std::map<std::string, int64_t> limits;
  std::map<std::string, std::map<uint64_t, MessageField>> messages;
  std::map<std::string, Operator> operators;
};

const Grammar& grammar();
int64_t limit(const char* name);

// --- Values ----------------------------------------------------------------------------------------------------------

// n: exactly n, -n: at most n.
using Dims = std::vector<int64_t>;

struct Value {
  std::string dtype;
  Dims dims;
  bool constant = false;      // follows from weights alone
  std::optional<Dims> ints;   // what a small int64 constant says
  std::optional<int64_t> most;  // no number in it is larger
};

// At most so many numbers; what is beyond 64 bits is the largest number of these.
int64_t product(const Dims& dims);
inline int64_t times(int64_t one, int64_t other) {
  int64_t result;
  return __builtin_mul_overflow(one, other, &result) ? INT64_MAX : result;
}
inline int64_t size_of(int64_t dim) { return dim < 0 ? -dim : dim; }

// An attribute's value.
struct Attribute {
  int64_t integer = 0;
  Dims integers;
  std::shared_ptr<Message> branch;
};

// What a node's inputs and attributes say for the names in its patterns; `lead` is what * stands for.
struct Bound {
  std::map<std::string, int64_t> sizes;
  std::map<std::string, Attribute> attributes;
  std::vector<const Value*> inputs;  // null where none stands
  std::optional<Dims> lead;

  int64_t size(const char* name) const { return size_of(sizes.at(name)); }
  int64_t attribute(const char* name) const { return attributes.at(name).integer; }
};

void match(const std::vector<std::string>& pattern, const Value& value, Bound& bound);
Dims resolve(const std::vector<std::string>& pattern, const Bound& bound);
// The dimensions of the outputs and of what is held meanwhile, or none where the patterns say.
std::optional<std::vector<Dims>> apply_rule(const std::string& rule, Bound& bound);
std::optional<int64_t> most_of(const std::string& name, const Bound& bound);

}  // namespace pocketvlm::graphs
