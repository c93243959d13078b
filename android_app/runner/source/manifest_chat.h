// What a manifest says of its chat layout (pocketvlm/bundle/chat.py), and members that only some formats have.
#pragma once

#include "json.h"
#include "manifest.h"

namespace pocketvlm {

// What is there and not null; format 3 alone may have it.
std::optional<json::Reader> in_format_3(const json::Members& of, const char* key, int64_t format);
// The same of format 5.
std::optional<json::Reader> in_format_5(const json::Members& of, const char* key, int64_t format);

// Whether the chat layout has the roles that it needs. No answer here is rendered from it: tokens come in ready.
bool read_chat(const json::Reader& value, int64_t format, Manifest& manifest);

}  // namespace pocketvlm
