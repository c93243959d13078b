#include "graph.h"

#include <algorithm>
#include <cstring>
#include <set>

#include "graph_grammar.h"

namespace pocketvlm {
namespace graphs {
namespace {

constexpr const char* kOtherVersion = "it is of another version of ONNX";
constexpr const char* kOtherInputs = "it takes other inputs";
constexpr const char* kOtherOutputs = "it gives other outputs";
constexpr const char* kOtherAttribute = "it has another attribute";
constexpr const char* kOtherBranch = "a branch gives other outputs";
constexpr const char* kOtherType = "an input has another type";
constexpr const char* kOtherShape = "an input has another shape";
constexpr const char* kOtherwise = "it describes a value otherwise than it is";
constexpr const char* kNowhere = "a tensor lies nowhere";
constexpr const char* kMask = "attention_mask";  // the input of which each number is at most 1
const std::set<std::string> kBranchNames = {"sequence", "width"};
// Of AttributeProto.type: the number, and the field that goes with it.
const std::map<std::string, std::pair<int64_t, const char*>> kKinds = {
    {"float", {1, "f"}}, {"int", {2, "i"}},       {"size", {2, "i"}},
    {"string", {3, "s"}}, {"branch", {5, "g"}},   {"sizes", {7, "ints"}},
};

// Calls use(node) for each node, those in branches included.
template <typename Use>
void each_node(const std::vector<Field>& nodes, Use use) {
  for (const Field& node : nodes) {
    use(*node.message);
    for (const Field& attribute : node.message->all("attributes"))
      if (attribute.message->has("g")) each_node(attribute.message->message("g").all("nodes"), use);
  }
}

// The value, if it is of the kind that the table names, and nothing else stands there.
Attribute attribute_of(const Message& attribute, const Wanted& wanted) {
  const auto [number, key] = kKinds.at(wanted.kind);
  bool wrong = attribute.integer("type") != number || !(attribute.has(key) || wanted.kind == "sizes");
  for (const auto& [name, values] : attribute.fields())
    wrong |= !values.empty() && name != "name" && name != "type" && name != key;
  refuse_if(wrong, kOtherAttribute);
  Attribute result;
  result.integer = attribute.integer("i");
  for (const Field& one : attribute.all("ints")) result.integers.push_back(one.integer);
  const auto among = [](const auto& values, const auto& value) {
    return std::find(values.begin(), values.end(), value) != values.end();
  };
  const auto is_size = [](int64_t size) { return size >= 0 && size <= limit("size"); };
  if (wanted.kind == "int") wrong = !among(wanted.integers, result.integer);
  if (wanted.kind == "string") wrong = !among(wanted.texts, attribute.text("s"));
  if (wanted.kind == "size") wrong = result.integer == 0 || !is_size(result.integer);
  if (wanted.kind == "float") wrong = !(attribute.all("f")[0].number > 0 && attribute.all("f")[0].number <= 1e6f);
  if (wanted.kind == "sizes")
    wrong = result.integers.empty() || int64_t(result.integers.size()) > limit("rank") ||
            !std::all_of(result.integers.begin(), result.integers.end(), is_size);
  if (wrong) refuse("its " + attribute.text("name") + " is out of the question");
  if (wanted.kind == "branch") result.branch = attribute.all("g")[0].message;
  return result;
}

class Checker {
 public:
  Checker(const std::map<std::string, int64_t>& sizes, const std::map<std::string, int64_t>& data)
      : sizes_(sizes), data_(data), room_(data) {}

  void run(const Message& graph) {
    const std::vector<Field>& nodes = graph.all("nodes");
    int64_t count = 0;
    each_node(nodes, [&](const Message&) { count++; });
    if (count > limit("nodes")) refuse("it has more than " + std::to_string(limit("nodes")) + " nodes");
    weights_and_inputs(graph);
    const auto dying = last_uses(graph);
    for (size_t at = 0; at < nodes.size(); at++) {
      numbered_node(at, *nodes[at].message);
      const auto found = dying.find(at);
      if (found == dying.end()) continue;
      for (const std::string& name : found->second) live_ -= bits(values_.at(name));
    }
    refuse_if(folded_ > times(limit("folded_by_stored"), stored_) + limit("folded_bits"),
              "it computes too much from its weights");
    refuse_if(graph.all("outputs").empty(), "it has no outputs");
    for (const char* kind : {"outputs", "values"})
      for (const Field& described : graph.all(kind)) declared(*described.message);
  }

 private:
  void weights_and_inputs(const Message& graph) {
    std::map<std::string, Value> tensors;
    std::vector<std::string> order;
    int64_t numbers = 0, rows = 1;
    for (const Field& tensor : graph.all("initializers")) {
      const std::string name = tensor.message->text("name");
      refuse_if(tensors.count(name) != 0, "it has two tensors of one name");
      numbers += product(tensors.emplace(name, tensor_of(*tensor.message)).first->second.dims);
      order.push_back(name);
    }
    for (const Field& described : graph.all("inputs")) {
      const Value value = input(*described.message);
      const std::string name = described.message->text("name");
      const auto known = tensors.find(name);
      refuse_if(known != tensors.end() && (known->second.dtype != value.dtype || known->second.dims != value.dims),
                "an input differs from its own default");
      tensors.erase(name);
      define(name, value);
      rows = std::max(rows, value.dims.empty() ? 1 : product({value.dims.begin(), value.dims.end() - 1}));
    }
    most_work_ = limit("work") + times(times(limit("work_by_weight"), rows), numbers);
    for (const std::string& name : order)
      if (const auto left = tensors.find(name); left != tensors.end()) define(name, left->second);
  }

  // Place of a node -> values that nobody reads behind it. Inputs and weights live on; so do outputs.
  std::map<size_t, std::vector<std::string>> last_uses(const Message& graph) const {
    std::set<std::string> kept;
    for (const auto& value : values_) kept.insert(value.first);
    for (const Field& output : graph.all("outputs")) kept.insert(output.message->text("name"));
    std::map<std::string, size_t> last;
    const std::vector<Field>& nodes = graph.all("nodes");
    for (size_t at = 0; at < nodes.size(); at++)
      each_node({nodes[at]}, [&](const Message& node) {
        for (const char* side : {"inputs", "outputs"})
          for (const Field& name : node.all(side)) last[std::string(name.text)] = at;
      });
    std::map<size_t, std::vector<std::string>> dying;
    for (const auto& [name, at] : last)
      if (!name.empty() && kept.count(name) == 0) dying[at].push_back(name);
    return dying;
  }

  // --- What stands in the graph ---

  Value tensor_of(const Message& tensor) {
    const auto type = grammar().types.find(tensor.integer("dtype"));
    refuse_if(type == grammar().types.end(), "a tensor has another type");
    Value value;
    value.dtype = type->second, value.constant = true;
    for (const Field& size : tensor.all("dims")) value.dims.push_back(size.integer);
    bool wrong = int64_t(value.dims.size()) > limit("rank");
    for (const int64_t size : value.dims) wrong |= size <= 0 || size > limit("size");
    refuse_if(wrong, "a tensor has no such shape");
    const int64_t count = bits(value);
    refuse_if(count > limit("value_bits"), "a tensor is too large");
    const int64_t size = (count + 7) / 8;
    stored_ += count;
    if (tensor.has("location") || tensor.has("external")) {
      refuse_if(tensor.integer("location") != 1 || tensor.has("raw"), "a tensor lies at two places");
      external(tensor.all("external"), size);
      return value;
    }
    const std::string_view raw = tensor.has("raw") ? tensor.all("raw")[0].text : std::string_view();
    refuse_if(int64_t(raw.size()) != size, "a tensor has another length than its shape");
    if (value.dtype == "int64" && value.dims.size() < 2 && product(value.dims) <= limit("ints")) {
      value.ints.emplace(size_t(product(value.dims)));
      std::memcpy(value.ints->data(), raw.data(), raw.size());
    }
    return value;
  }

  void external(const std::vector<Field>& entries, int64_t size) {
    std::map<std::string, std::string> said;
    for (const Field& entry : entries) said[entry.message->text("key")] = entry.message->text("value");
    refuse_if(entries.size() != 3 || said.size() != 3 || said.count("location") == 0 || said.count("offset") == 0 ||
                  said.count("length") == 0, kNowhere);
    const std::string& name = said["location"];
    const auto file = room_.find(name);
    if (file == room_.end())
      refuse("it takes weights from '" + name.substr(0, 120) + "', which the manifest does not list for it");
    for (const char* key : {"offset", "length"}) {
      const std::string& digits = said[key];
      bool wrong = digits.empty() || digits.size() > 15;
      for (const char digit : digits) wrong |= digit < '0' || digit > '9';
      refuse_if(wrong, kNowhere);
    }
    const int64_t offset = std::stoll(said["offset"]), length = std::stoll(said["length"]);
    refuse_if(offset % limit("alignment") != 0 || length != size || offset + length > data_.at(name), kNowhere);
    file->second -= length;
    refuse_if(file->second < 0, "its tensors take more than there is");
  }

  Value input(const Message& described) const {
    Value value;
    value.dtype = typed(described);
    const Message& tensor = described.message("type").message("tensor");
    refuse_if(!tensor.has("shape"), "an input has no shape");
    for (const Field& dim : tensor.message("shape").all("dims")) {
      if (dim.message->has("name")) {
        const auto most = sizes_.find(dim.message->text("name"));
        refuse_if(dim.message->has("size") || most == sizes_.end(), kOtherShape);
        value.dims.push_back(-most->second);
      } else {
        const int64_t size = dim.message->integer("size");
        refuse_if(size <= 0 || size > limit("size"), kOtherShape);
        value.dims.push_back(size);
      }
    }
    refuse_if(int64_t(value.dims.size()) > limit("rank"), kOtherShape);
    if (described.text("name") == kMask) value.most = 1;
    return value;
  }

  // What is said of an output, or of a value on the way, is so.
  void declared(const Message& described) const {
    const std::string dtype = typed(described);
    const auto known = values_.find(described.text("name"));
    refuse_if(known == values_.end() || known->second.dtype != dtype, kOtherwise);
    const Message& tensor = described.message("type").message("tensor");
    if (!tensor.has("shape")) return;
    const std::vector<Field>& said = tensor.message("shape").all("dims");
    const Dims& dims = known->second.dims;
    bool fits = said.size() == dims.size();
    for (size_t at = 0; fits && at < dims.size(); at++) {
      const Message& dim = *said[at].message;
      const int64_t size = dim.integer("size");
      if (dim.has("name")) {
        const std::string name = dim.text("name");
        fits = !dim.has("size") && (sizes_.count(name) != 0 || kBranchNames.count(name) != 0);
      } else {
        fits = dims[at] > 0 ? size == dims[at] : size > 0 && size <= -dims[at];
      }
    }
    refuse_if(!fits, kOtherwise);
  }

  static std::string typed(const Message& described) {
    const auto type = grammar().types.find(described.message("type").message("tensor").integer("dtype"));
    refuse_if(type == grammar().types.end() || described.text("name").empty(), kOtherwise);
    return type->second;
  }

  // --- Nodes ---

  void numbered_node(size_t at, const Message& given) {
    try {
      node(given, false);
    } catch (const Error& error) {
      const std::string name = given.text("operator").substr(0, 40);
      refuse("node " + std::to_string(at) + ", " + (name.empty() ? "no operator" : name) + ": " + error.what());
    }
  }

  void node(const Message& given, bool inside) {
    const auto known = grammar().operators.find(given.text("operator"));
    refuse_if(known == grammar().operators.end() || given.text("domain") != known->second.domain,
              "no export writes this operator");
    std::vector<const Value*> inputs;
    for (const Field& name : given.all("inputs")) inputs.push_back(read(std::string(name.text)));
    std::vector<Value> outputs;
    std::optional<std::string> why;
    bool fits = false;
    for (const Form& form : known->second.forms) {
      try {
        outputs = in_form(given, form, inputs, inside);
        fits = true;
        break;
      } catch (const Error& error) {
        if (!why) why = error.what();
      }
    }
    if (!fits) refuse(*why);
    for (size_t at = 0; at < outputs.size(); at++) {
      const std::string name(given.all("outputs")[at].text);
      refuse_if(name.empty(), kOtherOutputs);
      define(name, outputs[at]);
      if (outputs[at].constant) folded_ += bits(outputs[at]);
    }
  }

  // What a node gives, if it is written in this form.
  std::vector<Value> in_form(const Message& given, const Form& form, const std::vector<const Value*>& inputs,
                             bool inside) {
    Bound bound;
    bound.inputs = inputs;
    attributes(given, form, bound);
    std::string generic = match_inputs(form, bound);
    refuse_if(given.all("outputs").size() != form.outputs.size(), kOtherOutputs);
    std::vector<const Message*> inner;
    for (const char* name : {"then_branch", "else_branch"})
      if (bound.attributes.count(name) != 0) inner.push_back(bound.attributes[name].branch.get());
    const auto dims = inner.empty() ? apply_rule(form.rule, bound) : branches(inner, form, inside, generic);
    bool constant = inner.empty(), any = false;
    for (const Value* value : inputs)
      if (value != nullptr) constant &= value->constant, any = true;
    const std::optional<int64_t> most = most_of(given.text("operator"), bound);
    std::vector<Value> outputs;
    for (size_t at = 0; at < form.outputs.size(); at++) {
      const Pattern& pattern = form.outputs[at];
      Value value;
      value.dims = !dims || pattern.dims ? resolve(*pattern.dims, bound) : dims->at(at);
      value.dtype = pattern.dtype == "T" ? generic : pattern.dtype;
      if (value.dtype[0] == '@') value.dtype = grammar().types.at(bound.attribute(value.dtype.c_str() + 1));
      value.constant = constant && any, value.most = most;
      bounded(value);
      outputs.push_back(value);
    }
    for (size_t at = form.outputs.size(); dims && at < dims->size(); at++) {
      Value held;
      held.dtype = "float32", held.dims = (*dims)[at];
      bounded(held);
    }
    int64_t each = 1;
    for (const std::string& name : form.times) each = times(each, bound.size(name.c_str()));
    const int64_t work = times(product(outputs[0].dims), std::max(each, limit("work_by_number")));
    work_ = std::min(work_, INT64_MAX - work) + work;
    refuse_if(work_ > most_work_, "it computes too much");
    return outputs;
  }

  static void attributes(const Message& given, const Form& form, Bound& bound) {
    for (const Field& attribute : given.all("attributes")) {
      const std::string name = attribute.message->text("name");
      const auto wanted = form.attributes.find(name);
      refuse_if(wanted == form.attributes.end() || bound.attributes.count(name) != 0, kOtherAttribute);
      bound.attributes[name] = attribute_of(*attribute.message, wanted->second);
      if (wanted->second.kind == "size") bound.sizes[name] = bound.attributes[name].integer;
    }
    for (const auto& [name, wanted] : form.attributes)
      refuse_if(wanted.needed && bound.attributes.count(name) == 0, "it lacks an attribute");
  }

  // Holds the inputs to their patterns; gives the type T.
  static std::string match_inputs(const Form& form, Bound& bound) {
    std::string generic;
    refuse_if(bound.inputs.size() > form.inputs.size(), kOtherInputs);
    for (size_t at = 0; at < form.inputs.size(); at++) {
      const Pattern& pattern = form.inputs[at];
      const Value* value = at < bound.inputs.size() ? bound.inputs[at] : nullptr;
      if (pattern.absent || value == nullptr) {
        refuse_if(value != nullptr || !(pattern.absent || pattern.optional), kOtherInputs);
        continue;
      }
      if (pattern.dtype == "T") {
        if (generic.empty()) generic = value->dtype;
        const bool among = std::find(form.types.begin(), form.types.end(), generic) != form.types.end();
        refuse_if(value->dtype != generic || !among, kOtherType);
      } else {
        refuse_if(value->dtype != pattern.dtype, kOtherType);
      }
      refuse_if(pattern.single && !value->dims.empty() && value->dims != Dims{1}, "an input has other dimensions");
      if (pattern.dims) match(*pattern.dims, *value, bound);
    }
    return generic;
  }

  // Both give the same, of one type T: of dimensions that differ, the larger at most.
  std::vector<Dims> branches(const std::vector<const Message*>& given, const Form& form, bool inside,
                             std::string& generic) {
    refuse_if(inside, "it has branches in branches");
    std::vector<Dims> result;
    for (const Message* branch : given) {
      const std::vector<Field>& outputs = branch->all("outputs");
      refuse_if(outputs.size() != form.outputs.size(), kOtherBranch);
      std::set<std::string> outer;
      for (const auto& value : values_) outer.insert(value.first);
      for (const Field& one : branch->all("nodes")) node(*one.message, true);
      for (const Field& described : outputs) {
        refuse_if(outer.count(described.message->text("name")) != 0, kOtherBranch);
        declared(*described.message);
      }
      for (size_t at = 0; at < outputs.size(); at++) {
        const Value& value = values_.at(outputs[at].message->text("name"));
        const bool is_generic = form.outputs[at].dtype == "T";
        if (is_generic && generic.empty()) generic = value.dtype;
        refuse_if(value.dtype != (is_generic ? generic : form.outputs[at].dtype), kOtherBranch);
        if (result.size() == at) result.push_back(value.dims);
        else join(result[at], value.dims);
      }
    }
    const bool among = std::find(form.types.begin(), form.types.end(), generic) != form.types.end();
    refuse_if(!generic.empty() && !among, kOtherBranch);
    return result;
  }

  static void join(Dims& one, const Dims& other) {
    refuse_if(one.size() != other.size(), "its branches differ");
    for (size_t at = 0; at < one.size(); at++)
      if (one[at] != other[at]) one[at] = -std::max(size_of(one[at]), size_of(other[at]));
  }

  // --- Values ---

  const Value* read(const std::string& name) const {
    if (name.empty()) return nullptr;
    const auto found = values_.find(name);
    refuse_if(found == values_.end(), "it reads what is not there yet");
    return &found->second;
  }

  void define(const std::string& name, const Value& value) {
    refuse_if(name.empty() || values_.count(name) != 0, "it has two values of one name");
    bounded(value);
    values_.emplace(name, value);
    live_ += bits(value);
    refuse_if(live_ - stored_ > limit("live_bits"), "it holds too much at once");
  }

  static void bounded(const Value& value) {
    bool bad = int64_t(value.dims.size()) > limit("rank");
    for (const int64_t size : value.dims) bad |= size_of(size) > limit("size");
    refuse_if(bad || bits(value) > limit("value_bits"), "it asks for too much memory");
  }

  static int64_t bits(const Value& value) { return times(grammar().bits.at(value.dtype), product(value.dims)); }

  const std::map<std::string, int64_t>&sizes_, &data_;
  std::map<std::string, int64_t> room_;  // of each file, what no tensor has taken yet
  std::map<std::string, Value> values_;  // whose addresses stay
  int64_t stored_ = 0, folded_ = 0, live_ = 0, work_ = 0, most_work_ = 0;
};

void check_versions(const Message& model) {
  std::map<std::string, int64_t> opsets;
  for (const Field& one : model.all("opsets"))
    opsets[one.message->text("domain")] = one.message->integer("version", -1);
  const auto among = [](const std::vector<int64_t>& values, int64_t value) {
    return std::find(values.begin(), values.end(), value) != values.end();
  };
  bool wrong = !among(grammar().ir_versions, model.integer("ir_version", -1)) || !model.has("graph");
  wrong |= opsets.size() != model.all("opsets").size() || opsets.size() != grammar().opsets.size();
  for (const auto& [name, version] : opsets) {
    const auto known = grammar().opsets.find(name);
    wrong |= known == grammar().opsets.end() || !among(known->second, version);
  }
  refuse_if(wrong, kOtherVersion);
}

}  // namespace
}  // namespace graphs

void check_graph(std::string_view graph, const std::map<std::string, int64_t>& sizes,
                 const std::map<std::string, int64_t>& data) {
  const graphs::Message model = graphs::read_model(graph);
  graphs::check_versions(model);
  graphs::Checker(sizes, data).run(model.message("graph"));
}

}  // namespace pocketvlm
