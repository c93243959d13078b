// Sections of a manifest for pictures of native resolution, and for positions along three axes: pocketvlm/bundle/native.py.
#pragma once

#include "json.h"
#include "manifest.h"

namespace pocketvlm {

// A text that is a file name a bundle may use; another is refused.
std::string file_name(const json::Reader& value);

PatchPictures read_patches(const json::Reader& value);
MropePositions read_positions(const json::Reader& value);

// What does not fit together of a vision, of the fields that native resolution alone has.
std::optional<std::string> native_problem(const Vision& vision);

// What is wrong with the files of a manifest's tables: they are not as large as it says.
std::optional<std::string> table_problem(const Manifest& manifest);

// What is wrong with a manifest's spans: one does not fit into a prefill step, of which `first_chunk` is the one that stands
// at the top.
std::optional<std::string> span_problem(const Manifest& manifest, int64_t first_chunk);

}  // namespace pocketvlm
