// A graph's protobuf, read strictly: fields that exports write, once where onnx.proto says once.
#include <cstring>
#include <nlohmann/json.hpp>

#include "graph_grammar.h"

namespace pocketvlm::graphs {

extern const char* const kGrammar;

namespace {

using Json = nlohmann::json;

constexpr int kMostDepth = 1;  // a branch has no branches

Pattern pattern_of(std::string text) {
  Pattern pattern;
  pattern.absent = text == "-";
  if ((pattern.optional = text[0] == '?')) text.erase(0, 1);
  if ((pattern.single = text.back() == '.')) text.pop_back();
  const size_t bracket = text.find('[');
  pattern.dtype = text.substr(0, bracket);
  if (bracket == std::string::npos) return pattern;
  pattern.dims.emplace();
  for (size_t at = bracket + 1; at + 1 < text.size();) {
    const size_t end = std::min(text.find(' ', at), text.size() - 1);
    pattern.dims->push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return pattern;
}

Wanted wanted_of(const Json& given, bool needed) {
  Wanted wanted;
  wanted.needed = needed;
  if (given.is_string()) {
    wanted.kind = given == "positive" ? "float" : given.get<std::string>();
  } else if (given[0].is_string()) {
    wanted.kind = "string", wanted.texts = given.get<std::vector<std::string>>();
  } else {
    wanted.kind = "int", wanted.integers = given.get<std::vector<int64_t>>();
  }
  return wanted;
}

Form form_of(const Json& given) {
  Form form;
  const Json attributes = given.value("attributes", Json::object());
  for (const auto& [name, wanted] : attributes.items()) {
    const bool needed = name[0] != '?';
    form.attributes[needed ? name : name.substr(1)] = wanted_of(wanted, needed);
  }
  for (const std::string text : given["inputs"]) form.inputs.push_back(pattern_of(text));
  for (const std::string text : given["outputs"]) form.outputs.push_back(pattern_of(text));
  form.types = given.value("types", form.types);
  form.times = given.value("times", form.times);
  form.rule = given.value("rule", form.rule);
  return form;
}

Grammar parsed() {
  const Json raw = Json::parse(kGrammar);
  Grammar result;
  result.ir_versions = raw["ir_versions"].get<std::vector<int64_t>>();
  result.opsets = raw["opsets"].get<std::map<std::string, std::vector<int64_t>>>();
  result.limits = raw["limits"].get<std::map<std::string, int64_t>>();
  for (const auto& [name, type] : raw["types"].items()) {
    result.bits[name] = type[1];
    result.types[type[0]] = name;
  }
  for (const auto& [message, fields] : raw["messages"].items())
    for (const auto& [number, field] : fields.items()) {
      std::string kind = field[1];
      const bool repeated = kind[0] == '*';
      result.messages[message][std::stoull(number)] = {field[0], kind.substr(repeated), repeated};
    }
  for (const auto& [name, entry] : raw["operators"].items()) {
    Operator& made = result.operators[name];
    made.domain = entry.value("domain", "");
    for (const Json& form : entry["forms"]) made.forms.push_back(form_of(form));
  }
  return result;
}

class Wire {
 public:
  explicit Wire(std::string_view graph) : graph_(graph) {}

  Message message(const std::string& kind, size_t at, size_t end, int depth) {
    const auto& known = grammar().messages.at(kind);
    Message result;
    while (at < end) {
      const uint64_t tag = varint(at, end);
      const auto found = known.find(tag >> 3);
      if (found == known.end())
        refuse("field " + std::to_string(tag >> 3) + " of its " + kind + " is none that exports write");
      const MessageField& field = found->second;
      const uint64_t wire = field.kind == "int" ? 0 : field.kind == "float" ? 5 : 2;
      if ((tag & 7) != wire || (!field.repeated && result.has(field.name)))
        refuse(field.name + " of its " + kind + " is damaged or there twice");
      if (++fields_ > limit("fields")) refuse("it has more than " + std::to_string(limit("fields")) + " fields");
      result.add(field.name).push_back(value(field.kind, at, end, depth));
    }
    return result;
  }

 private:
  Field value(const std::string& kind, size_t& at, size_t end, int depth) {
    Field read;
    if (kind == "int") {
      read.integer = int64_t(varint(at, end));
    } else if (kind == "float") {
      if (end - at < sizeof read.number) damaged(at);
      std::memcpy(&read.number, graph_.data() + at, sizeof read.number);
      at += sizeof read.number;
    } else {
      const uint64_t size = varint(at, end);
      if (size > end - at) damaged(at);
      const size_t start = at;
      at += size_t(size);
      read.text = graph_.substr(start, size_t(size));
      if (kind == "text") check_name(read.text);
      if (kind == "text" || kind == "bytes") return read;
      depth += kind == "Branch";
      refuse_if(depth > kMostDepth, "it has branches in branches");
      read.message = std::make_shared<Message>(message(kind, start, at, depth));
    }
    return read;
  }

  // Names: printable ASCII without spaces, which engines, files and terminals all take.
  static void check_name(std::string_view name) {
    bool wrong = int64_t(name.size()) > limit("name");
    for (const char letter : name) wrong |= letter < '!' || letter > '~';
    refuse_if(wrong, "it has a name that is none");
  }

  // A number below 2 ** 64 of up to ten bytes; `at` moves behind it.
  uint64_t varint(size_t& at, size_t end) {
    uint64_t result = 0;
    for (int shift = 0; shift < 70 && at < end; shift += 7) {
      const auto byte = static_cast<unsigned char>(graph_[at++]);
      if (shift == 63 && byte < 0x80 && byte > 1) break;
      result |= uint64_t(byte & 0x7f) << shift;
      if (byte < 0x80) return result;
    }
    damaged(at);
  }

  [[noreturn]] static void damaged(size_t at) { refuse("it is damaged at byte " + std::to_string(at)); }

  std::string_view graph_;
  int64_t fields_ = 0;
};

}  // namespace

const std::vector<Field>& Message::all(std::string_view name) const {
  static const std::vector<Field> none;
  const auto found = fields_.find(name);
  return found == fields_.end() ? none : found->second;
}

std::string Message::text(std::string_view name) const {
  return has(name) ? std::string(all(name)[0].text) : std::string();
}

int64_t Message::integer(std::string_view name, int64_t otherwise) const {
  return has(name) ? all(name)[0].integer : otherwise;
}

const Message& Message::message(std::string_view name) const {
  static const Message none;
  return has(name) ? *all(name)[0].message : none;
}

const Grammar& grammar() {
  static const Grammar once = parsed();
  return once;
}

int64_t limit(const char* name) { return grammar().limits.at(name); }

Message read_model(std::string_view graph) { return Wire(graph).message("Model", 0, graph.size(), 0); }

}  // namespace pocketvlm::graphs
