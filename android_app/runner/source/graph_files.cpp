#include "graph_files.h"

#include <cstdint>
#include <functional>
#include <map>
#include <vector>

#include "error.h"

namespace pocketvlm {
namespace {

enum class Message { model, training, function, graph, node, attribute, sparse, tensor, entry };

// Messages of onnx.proto below which tensors lie: field number -> message. Other fields are skipped.
const std::map<Message, std::map<uint64_t, Message>> kFields = {
    {Message::model, {{7, Message::graph}, {20, Message::training}, {25, Message::function}}},
    {Message::training, {{1, Message::graph}, {2, Message::graph}}},
    {Message::function, {{7, Message::node}, {11, Message::attribute}}},
    {Message::graph, {{1, Message::node}, {5, Message::tensor}, {15, Message::sparse}}},
    {Message::node, {{5, Message::attribute}}},
    {Message::attribute,
     {{5, Message::tensor},
      {6, Message::graph},
      {10, Message::tensor},
      {11, Message::graph},
      {22, Message::sparse},
      {23, Message::sparse}}},
    {Message::sparse, {{1, Message::tensor}, {2, Message::tensor}}},
    {Message::tensor, {{13, Message::entry}}},
};
constexpr std::string_view kLocation = "location";
constexpr int kMaxDepth = 100;  // protobuf's own limit

[[noreturn]] void damaged(size_t at) { throw Error(Failure::bundle, "it is damaged at byte " + std::to_string(at)); }

// A number of up to ten bytes; `at` moves behind it.
uint64_t varint(std::string_view graph, size_t& at, size_t end) {
  uint64_t value = 0;
  for (int shift = 0; shift < 70 && at < end; shift += 7) {
    const auto byte = static_cast<unsigned char>(graph[at++]);
    value |= uint64_t(byte & 0x7f) << shift;
    // Bits beyond 64 make a number that is too large for any use below.
    if (byte < 0x80) return shift == 63 && byte > 1 ? UINT64_MAX : value;
  }
  damaged(at);
}

// Calls use(number, start, end) for each field of bytes (text, messages) of a message, in order.
void fields(std::string_view graph, size_t at, size_t end, const std::function<void(uint64_t, size_t, size_t)>& use) {
  while (at < end) {
    const uint64_t tag = varint(graph, at, end), number = tag >> 3, wire = tag & 7;
    if (number == 0 || tag >> 32 != 0) damaged(at);
    uint64_t size = 0;
    if (wire == 0) {
      varint(graph, at, end);
    } else if (wire == 2) {
      size = varint(graph, at, end);
      if (size <= end - at) use(number, at, at + size);
    } else if (wire == 1 || wire == 5) {
      size = wire == 1 ? 8 : 4;
    } else {
      damaged(at);
    }
    if (size > end - at) damaged(at);
    at += size;
  }
}

// The file that an entry of a tensor's external data names, if it does. Of a field that is there twice the last counts.
void add_location(std::string_view graph, size_t start, size_t end, std::set<std::string>& found) {
  std::string_view key, value;
  fields(graph, start, end, [&](uint64_t number, size_t first, size_t last) {
    if (number == 1) key = graph.substr(first, last - first);
    if (number == 2) value = graph.substr(first, last - first);
  });
  if (key == kLocation) found.emplace(value);
}

}  // namespace

std::set<std::string> external_files(std::string_view graph) {
  if (graph.size() >= 8 && graph.substr(4, 4) == "ORTM")
    throw Error(Failure::bundle, "it is in ONNX Runtime's own format");
  struct Inside {
    Message message;
    size_t start, end;
    int depth;
  };
  std::set<std::string> found;
  std::vector<Inside> remaining;
  if (graph.find(kLocation) != std::string_view::npos) remaining.push_back({Message::model, 0, graph.size(), 0});
  while (!remaining.empty()) {
    const Inside one = remaining.back();
    remaining.pop_back();
    if (one.depth > kMaxDepth) throw Error(Failure::bundle, "it is nested too deeply");
    const auto& inner = kFields.at(one.message);
    fields(graph, one.start, one.end, [&](uint64_t number, size_t first, size_t last) {
      const auto field = inner.find(number);
      // What does not name a file is not looked into: nearly all of a graph.
      if (field == inner.end() || graph.substr(first, last - first).find(kLocation) == std::string_view::npos) return;
      if (field->second == Message::entry) add_location(graph, first, last, found);
      else remaining.push_back({field->second, first, last, one.depth + 1});
    });
  }
  return found;
}

}  // namespace pocketvlm
