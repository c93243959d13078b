// Which files an ONNX graph takes weights from, read from its protobuf (pocketvlm/bundle/graph_files.py says why).
#pragma once

#include <set>
#include <string>
#include <string_view>

namespace pocketvlm {

// The files that a graph names, as it spells them. Failure: bundle, where the graph is damaged or no ONNX.
std::set<std::string> external_files(std::string_view graph);

}  // namespace pocketvlm
