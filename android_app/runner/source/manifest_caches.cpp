#include "manifest_caches.h"

#include <algorithm>

namespace pocketvlm {
namespace {

using json::Members;
using json::Reader;

LayerCache layer_cache(const Reader& value) {
  const json::Object& given = value.object();
  const std::string kind = Members(value, given)["kind"].choice({"attention", "convolution", "state"});
  LayerCache read;
  if (kind == "attention") {
    value.members({"kind"});
  } else if (kind == "convolution") {
    const Members of = value.members({"kind", "width", "kernel"});
    read.kind = LayerCache::convolution;
    read.width = of["width"].integer(1, 1 << 20), read.kernel = of["kernel"].integer(1, 64);
  } else {
    const Members of = value.members({"kind", "heads", "key_width", "value_width", "width", "kernel"});
    read.kind = LayerCache::state;
    read.width = of["width"].integer(1, 1 << 20), read.kernel = of["kernel"].integer(2, 64);
    read.heads = of["heads"].integer(1, 1 << 12);
    read.key_width = of["key_width"].integer(1, 1 << 12), read.value_width = of["value_width"].integer(1, 1 << 12);
  }
  return read;
}

}  // namespace

std::vector<LayerCache> read_caches(const std::optional<Reader>& given, int64_t layers, int64_t format) {
  if (!given || given->is_null()) return std::vector<LayerCache>(size_t(layers));
  const std::vector<LayerCache> caches = given->list(layer_cache, 1, 4096);
  const auto is_attention = [](const LayerCache& one) { return one.kind == LayerCache::attention; };
  if (std::all_of(caches.begin(), caches.end(), is_attention))
    given->refuse("it has attention alone, which is said by leaving it out");
  if (format < 5) given->refuse("only format 5 has it");
  if (caches.size() != size_t(layers))
    given->refuse("it has " + std::to_string(caches.size()) + " layers, the model " + std::to_string(layers));
  return caches;
}

}  // namespace pocketvlm
