// What a node gives of what it takes: pocketvlm/bundle/graphs/shapes.py, rule by rule.
#include <algorithm>
#include <functional>

#include "graph_grammar.h"

namespace pocketvlm::graphs {
namespace {

using Given = std::optional<std::vector<Dims>>;

constexpr const char* kNoFit = "its shapes do not fit";
constexpr const char* kNoHeads = "its heads do not fit";
constexpr const char* kNoAxis = "its axis is none of the input's";
constexpr const char* kNoBlocks = "its blocks do not fit";

// The dimension that two are that have to be equal: the exact one, or the tighter of two bounds.
int64_t same(int64_t one, int64_t other) {
  const int64_t most = std::min(size_of(one), size_of(other));
  refuse_if(one > most || other > most, kNoFit);
  return std::max(one, other);
}

bool exact(const Dims& dims) {
  return std::all_of(dims.begin(), dims.end(), [](int64_t size) { return size > 0; });
}

const Dims& dims_of(const Bound& bound, size_t at) { return bound.inputs[at]->dims; }

const Dims& ints_of(const Bound& bound, size_t at) {
  refuse_if(!bound.inputs[at]->ints, "an input is to be a constant");
  return *bound.inputs[at]->ints;
}

size_t axis_of(int64_t axis, size_t rank) {
  refuse_if(axis < -int64_t(rank) || axis >= int64_t(rank), kNoAxis);
  return size_t(axis < 0 ? axis + int64_t(rank) : axis);
}

bool is_number(const std::string& text) { return !text.empty() && text[0] >= '0' && text[0] <= '9'; }

// As ONNX does, where one side has the result's shape already: nothing grows.
Given broadcast(Bound& bound) {
  Dims left = dims_of(bound, 0), right = dims_of(bound, 1), result;
  const size_t rank = std::max(left.size(), right.size());
  left.insert(left.begin(), rank - left.size(), 1), right.insert(right.begin(), rank - right.size(), 1);
  bool left_grows = false, right_grows = false;
  for (size_t at = 0; at < rank; at++) {
    const int64_t one = left[at], other = right[at];
    left_grows |= one == 1 && other != 1, right_grows |= other == 1 && one != 1;
    result.push_back(one == 1 ? other : other == 1 ? one : same(one, other));
  }
  refuse_if(left_grows && right_grows, "both of its inputs would grow");
  return {{result}};
}

void check_zero_points(const Bound& bound, int64_t groups, int64_t bits) {
  const auto found = bound.sizes.find("Z");
  refuse_if(found != bound.sizes.end() && found->second != (groups * bits + 7) / 8, "its zero points do not fit");
}

// [rows, groups, bytes of a group], scales for each group; zero points of 4 bits in pairs.
Given blocks(Bound& bound) {
  const int64_t bits = bound.attribute("bits"), block = bound.attribute("block_size");
  const int64_t groups = (bound.size("K") + block - 1) / block;
  refuse_if(bound.sizes.at("G") != groups || bound.sizes.at("B") * 8 != bits * block, kNoBlocks);
  check_zero_points(bound, groups, bits);
  return {};
}

// Codes [rows, bytes] of whole groups, scales [rows, groups] -> columns.
Given rows_of_blocks(Bound& bound) {
  const int64_t bits = bound.attribute("bits"), block = bound.attribute("block_size"), groups = bound.sizes.at("G");
  const int64_t columns = bound.sizes.at("P") * 8 / bits;
  refuse_if(columns <= (groups - 1) * block || columns > groups * block, kNoBlocks);
  check_zero_points(bound, groups, bits);
  bound.sizes["C"] = columns;
  return {};
}

// Codes [columns, rows] of whole groups of columns, scales [groups, rows].
Given column_blocks(Bound& bound) {
  refuse_if(bound.sizes.at("G") * bound.attribute("block_size") != bound.sizes.at("K"), kNoBlocks);
  return {};
}

// A convolution whose kernel steps by its own size.
Given patches(Bound& bound) {
  const Dims kernel = {bound.sizes.at("P"), bound.sizes.at("Q")};
  for (const char* name : {"kernel_shape", "strides"})
    refuse_if(bound.attributes.at(name).integers != kernel, "it has other strides");
  const int64_t down = bound.size("H") / kernel[0], across = bound.size("W") / kernel[1];
  refuse_if(down == 0 || across == 0 || bound.sizes.at("H") < 1 || bound.sizes.at("W") < 1, "its kernel is too large");
  return {{{bound.sizes.at("T"), bound.sizes.at("O"), down, across}}};
}

// A convolution with zeros around what it goes over, as many as half its kernel, whose side is odd.
Given convolved(Bound& bound) {
  const int64_t side = bound.sizes.at("P"), group = bound.attribute("group");
  const Dims strides = bound.attributes.at("strides").integers, kernel = {side, bound.sizes.at("Q")};
  refuse_if(bound.attributes.at("kernel_shape").integers != kernel || side % 2 != 1, "its kernel is another");
  const bool steps = strides == Dims{1, 1} || strides == Dims{2, 2};
  const Dims around(4, side / 2);
  refuse_if(kernel[0] != kernel[1] || bound.attributes.at("pads").integers != around || !steps,
            "it has other strides");
  const int64_t channels = bound.sizes.at("C"), given = bound.sizes.at("O");
  refuse_if(channels != times(group, bound.size("I")) || given % group != 0, "its channels do not fit");
  const int64_t down = bound.sizes.at("H"), across = bound.sizes.at("W");
  refuse_if(down < 1 || across < 1, "its kernel is too large");
  const auto left = [&](int64_t size) { return (size + strides[0] - 1) / strides[0]; };
  return {{{bound.sizes.at("T"), given, left(down), left(across)}}};
}

// Beside the output the scores of all heads are held, of queries that may be others than the keys.
Given heads(Bound& bound) {
  const int64_t count = bound.attribute("num_heads");
  refuse_if(bound.sizes.at("W") < 1 || bound.sizes.at("W") % count != 0, kNoHeads);
  const int64_t queries = bound.size(bound.sizes.count("Q") != 0 ? "Q" : "S");
  return {{dims_of(bound, 0), {bound.size("B"), count, queries, bound.size("S")}}};
}

Given scores(Bound& bound) {
  refuse_if(bound.size("H") % bound.size("K") != 0, kNoHeads);
  return {{dims_of(bound, 0), {bound.size("B"), bound.size("H"), bound.size("S"), bound.size("L")}}};
}

Given grouped(Bound& bound) {
  const int64_t count = bound.attribute("num_heads"), kv = bound.attribute("kv_num_heads"), size = bound.sizes.at("D");
  bool wrong = kv != bound.sizes.at("H") || count % kv != 0 || size < 1 || size % 8 != 0;
  wrong = wrong || bound.sizes.at("Q") != times(count, size) || bound.sizes.at("W") != times(kv, size);
  if (bound.attribute("do_rotary") == 1)
    wrong = wrong || bound.sizes.at("C") * 2 != size || bound.sizes.at("R") < bound.sizes.at("L");
  refuse_if(wrong, kNoHeads);
  const std::optional<int64_t> last = bound.inputs[5]->most, total = bound.inputs[6]->most;
  refuse_if(!total || !last || *last != *total - 1 || *last >= bound.sizes.at("L"), "it may reach beyond its cache");
  return {};
}

// Of each head one matrix, which a query, a key and a value belong to.
Given matrices(Bound& bound) {
  const int64_t count = bound.sizes.at("H"), key = bound.sizes.at("D"), value = bound.sizes.at("E");
  bool wrong = bound.attribute("q_num_heads") != count || bound.attribute("kv_num_heads") != count || count < 1;
  wrong = wrong || bound.sizes.at("Q") != count * key || bound.sizes.at("W") != count * value;
  refuse_if(wrong || key < 1 || value < 1, kNoHeads);
  return {};
}

Given rotary(Bound& bound) {
  refuse_if(bound.sizes.at("W") < 1 || bound.sizes.at("W") % (2 * bound.sizes.at("C")) != 0, kNoHeads);
  return {};
}

Given element(Bound& bound) {
  const int64_t index = ints_of(bound, 1)[0];
  refuse_if(index < 0 || index >= bound.sizes.at("V"), "its index is none of the input's");
  return {};
}

Given reduced(Bound& bound) {
  Dims dims = dims_of(bound, 0);
  const size_t axis = axis_of(ints_of(bound, 1)[0], dims.size());
  if (bound.attribute("keepdims") == 1) dims[axis] = 1;
  else dims.erase(dims.begin() + int64_t(axis));
  return {{dims}};
}

Given shape_of(Bound& bound) {
  const int64_t rank = int64_t(dims_of(bound, 0).size());
  const int64_t start = bound.attributes.count("start") != 0 ? bound.attribute("start") : 0;
  const int64_t end = bound.attributes.count("end") != 0 ? bound.attribute("end") : rank;
  refuse_if(start >= end || end > rank, kNoAxis);
  return {{{end - start}}};
}

Given sliced(Bound& bound) {
  Dims dims = dims_of(bound, 0);
  const size_t axis = axis_of(bound.inputs.size() > 3 ? ints_of(bound, 3)[0] : 0, dims.size());
  const auto &start = bound.inputs[1]->ints, &end = bound.inputs[2]->ints;
  const int64_t size = dims[axis];
  if (!start || !end || size < 0) {
    dims[axis] = -size_of(size);
  } else {
    const auto at = [&](int64_t index) { return std::clamp(index < 0 ? index + size : index, int64_t{0}, size); };
    dims[axis] = std::max(int64_t{0}, at((*end)[0]) - at((*start)[0]));
    refuse_if(dims[axis] == 0, "it leaves nothing");
  }
  return {{dims}};
}

Given halves(Bound& bound) {
  const int64_t rows = bound.sizes.at("R");
  refuse_if(rows < 1 || rows % 2 != 0, kNoFit);
  Dims half = bound.lead.value_or(Dims{});
  half.insert(half.end(), {rows / 2, bound.sizes.at("N")});
  return {{half, half}};
}

Given joined(Bound& bound) {
  const Dims &left = dims_of(bound, 0), &right = dims_of(bound, 1);
  const size_t axis = axis_of(bound.attribute("axis"), left.size());
  refuse_if(left.size() != right.size(), kNoFit);
  Dims dims;
  for (size_t at = 0; at < left.size(); at++) dims.push_back(at == axis ? left[at] : same(left[at], right[at]));
  const int64_t total = size_of(left[axis]) + size_of(right[axis]);
  dims[axis] = left[axis] > 0 && right[axis] > 0 ? total : -total;
  return {{dims}};
}

Given reshaped(Bound& bound) {
  const Dims &before = dims_of(bound, 0), &target = ints_of(bound, 1);
  refuse_if(std::count(target.begin(), target.end(), -1) > 1 || *std::min_element(target.begin(), target.end()) < -1,
            "its shape is none");
  Dims rest = before, known, result;
  for (size_t at = 0; at < target.size(); at++) {
    refuse_if(target[at] == 0 && at >= before.size(), "its shape is none");
    if (target[at] == 0) rest[at] = 1;
    else if (target[at] > 0) known.push_back(target[at]);
  }
  const bool is_exact = exact(rest), follows = std::count(target.begin(), target.end(), -1) == 1;
  const int64_t have = product(rest), want = product(known), size = std::max(int64_t{1}, have / want);
  refuse_if(is_exact && (follows ? have % want != 0 : have != want), kNoFit);
  for (size_t at = 0; at < target.size(); at++)
    result.push_back(target[at] == 0 ? before[at] : target[at] > 0 ? target[at] : is_exact ? size : -size);
  return {{result}};
}

Given transposed(Bound& bound) {
  const Dims& dims = dims_of(bound, 0);
  Dims order = bound.attributes.at("perm").integers, result;
  const auto wrong = "its order is none of the input's axes";
  refuse_if(order.size() != dims.size(), wrong);
  for (size_t axis = 0; axis < order.size(); axis++)
    refuse_if(std::count(order.begin(), order.end(), int64_t(axis)) != 1, wrong);
  for (const int64_t axis : order) result.push_back(dims[size_t(axis)]);
  return {{result}};
}

Given last_axis(Bound& bound) {
  refuse_if(ints_of(bound, 1) != Dims{1}, kNoAxis);
  return {};
}

// A grid's rows and columns, by less than they are.
Given padded(Bound& bound) {
  Dims dims = dims_of(bound, 0);
  const Dims& pads = ints_of(bound, 1);
  const size_t rank = dims.size();
  bool wrong = pads.size() != 2 * rank;
  for (size_t at = 0; !wrong && at < rank; at++) {
    const int64_t more = pads[at + rank];
    wrong = pads[at] != 0 || (more != 0 && (more < 0 || more >= dims[at]));
    if (!wrong) dims[at] += more;
  }
  refuse_if(wrong, "its padding does not fit");
  return {{dims}};
}

Given counted(Bound& bound) {
  const std::optional<int64_t> most = bound.inputs[1]->most;
  const auto is = [&](size_t at, int64_t number) { return bound.inputs[at]->ints == Dims{number}; };
  refuse_if(!most || *most < 1 || !is(0, 0) || !is(2, 1), "nothing says how far it counts");
  return {{{-*most}}};
}

const std::map<std::string, std::function<Given(Bound&)>> kRules = {
    {"broadcast", broadcast}, {"blocks", blocks},         {"rows_of_blocks", rows_of_blocks}, {"patches", patches},
    {"convolved", convolved}, {"heads", heads},         {"scores", scores},         {"grouped", grouped},               {"matrices", matrices}, {"rotary", rotary},
    {"element", element},     {"reduced", reduced},       {"shape_of", shape_of},             {"sliced", sliced},
    {"halves", halves},       {"joined", joined},         {"reshaped", reshaped},             {"transposed", transposed},
    {"last_axis", last_axis}, {"padded", padded},         {"counted", counted},               {"column_blocks", column_blocks},
};

}  // namespace

int64_t product(const Dims& dims) {
  int64_t result = 1;
  for (const int64_t size : dims) result = times(result, size_of(size));
  return result;
}

void match(const std::vector<std::string>& pattern, const Value& value, Bound& bound) {
  Dims dims = value.dims;
  size_t first = 0;
  if (!pattern.empty() && pattern[0] == "*") {
    first = 1;
    refuse_if(dims.size() + 1 < pattern.size(), "an input has too few dimensions");
    Dims lead(dims.begin(), dims.end() - int64_t(pattern.size() - 1));
    dims.erase(dims.begin(), dims.begin() + int64_t(lead.size()));
    if (bound.lead) {
      refuse_if(lead.size() != bound.lead->size(), kNoFit);
      for (size_t at = 0; at < lead.size(); at++) lead[at] = same(lead[at], (*bound.lead)[at]);
    }
    bound.lead = lead;
  }
  refuse_if(dims.size() != pattern.size() - first, "an input has other dimensions");
  for (size_t at = 0; at < dims.size(); at++) {
    const std::string& name = pattern[first + at];
    if (is_number(name)) {
      same(std::stoll(name), dims[at]);
      continue;
    }
    const auto [known, fresh] = bound.sizes.emplace(name, dims[at]);
    if (!fresh) known->second = same(known->second, dims[at]);
  }
}

Dims resolve(const std::vector<std::string>& pattern, const Bound& bound) {
  Dims dims;
  for (const std::string& name : pattern) {
    if (name != "*") dims.push_back(is_number(name) ? std::stoll(name) : bound.sizes.at(name));
    else if (bound.lead) dims.insert(dims.end(), bound.lead->begin(), bound.lead->end());
  }
  return dims;
}

std::optional<std::vector<Dims>> apply_rule(const std::string& rule, Bound& bound) {
  return rule.empty() ? Given{} : kRules.at(rule)(bound);
}

// What counts tokens.
std::optional<int64_t> most_of(const std::string& name, const Bound& bound) {
  const Value* first = bound.inputs.empty() ? nullptr : bound.inputs[0];
  if (first == nullptr) return {};
  if (name == "Shape") {
    int64_t most = 0;
    for (const int64_t size : first->dims) most = std::max(most, size_of(size));
    return most;
  }
  if (!first->most) return {};
  if (name == "Gather" || name == "Cast") return first->most;
  if (name == "ReduceSum") return times(*first->most, product(first->dims));  // of a mask, whose ones are counted
  if (name != "Sub" || !bound.inputs[1]->ints) return {};
  const int64_t least = *std::min_element(bound.inputs[1]->ints->begin(), bound.inputs[1]->ints->end());
  return least < 0 || least > *first->most ? std::nullopt : std::optional<int64_t>(*first->most - least);
}

}  // namespace pocketvlm::graphs
