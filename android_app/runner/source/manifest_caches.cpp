#include "manifest_caches.h"

#include <algorithm>

namespace pocketvlm {
namespace {

using json::Members;
using json::Reader;

LayerCache layer_cache(const Reader& value) {
  const json::Object& given = value.object();
  const std::string kind = Members(value, given)["kind"].choice({"attention", "shared", "convolution", "state"});
  LayerCache read;
  if (kind == "attention") {
    const Members of = value.members({"kind", "head_dim"});
    if (const auto size = of.optional("head_dim"); size && !size->is_null()) read.head_dim = size->integer(1, 1 << 16);
  } else if (kind == "shared") {
    read.kind = LayerCache::shared;
    read.layer = value.members({"kind", "layer"})["layer"].integer(0, 4095);
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

std::vector<LayerCache> read_caches(const std::optional<Reader>& given, int64_t layers, int64_t head_dim,
                                    int64_t format) {
  if (!given || given->is_null()) return std::vector<LayerCache>(size_t(layers));
  const std::vector<LayerCache> caches = given->list(layer_cache, 1, 4096);
  if (std::all_of(caches.begin(), caches.end(), [](const LayerCache& one) { return one.is_plain(); }))
    given->refuse("it has attention alone, which is said by leaving it out");
  for (size_t at = 0; at < caches.size(); at++) {
    const LayerCache& one = caches[at];
    if (one.head_dim == head_dim) given->refuse("a head_dim is kv_cache's own, which is said by leaving it out");
    if (one.kind == LayerCache::shared &&
        (one.layer >= int64_t(at) || caches[size_t(one.layer)].kind != LayerCache::attention))
      given->refuse("a layer reads the cache of no earlier layer with attention");
  }
  if (format < 5) given->refuse("only format 5 has it");
  if (caches.size() != size_t(layers))
    given->refuse("it has " + std::to_string(caches.size()) + " layers, the model " + std::to_string(layers));
  return caches;
}

}  // namespace pocketvlm
