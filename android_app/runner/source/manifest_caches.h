// What a manifest's kv_cache says of each layer: pocketvlm/bundle/caches.py.
#pragma once

#include "json.h"
#include "manifest.h"

namespace pocketvlm {

// Which kind of cache each layer has; without a list all have attention's.
std::vector<LayerCache> read_caches(const std::optional<json::Reader>& given, int64_t layers, int64_t head_dim,
                                    int64_t format);

}  // namespace pocketvlm
