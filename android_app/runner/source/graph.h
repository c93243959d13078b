// Which ONNX graphs a bundle may have (pocketvlm/bundle/graphs says why): the grammar that Python holds them to as well.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

namespace pocketvlm {

// Holds a graph to the grammar, without an engine. `sizes`: what an input's dimension that varies is at most, by its
// name. `data`: the files that the graph may take weights from, as it is to spell them, and their sizes.
// Failure: bundle, with where and why in printable characters.
void check_graph(std::string_view graph, const std::map<std::string, int64_t>& sizes,
                 const std::map<std::string, int64_t>& data);

}  // namespace pocketvlm
