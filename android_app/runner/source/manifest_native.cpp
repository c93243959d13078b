#include "manifest_native.h"

#include <algorithm>
#include <numeric>

#include "tiling.h"

namespace pocketvlm {
namespace {

using json::Members;
using json::Reader;

std::optional<int64_t> size_or_none(const Members& of, const char* key, int64_t most) {
  const auto given = of.optional(key);
  return !given || given->is_null() ? std::nullopt : std::optional<int64_t>(given->integer(1, most));
}

// Whether a listed file has as many float32 as these sizes say, whose product may be beyond 64 bits.
bool has_floats(const Manifest& manifest, const std::string& name, std::initializer_list<int64_t> sizes) {
  const auto entry = manifest.files.find(name);
  int64_t bytes = sizeof(float);
  for (const int64_t size : sizes)
    if (__builtin_mul_overflow(bytes, size, &bytes)) return false;
  return entry != manifest.files.end() && entry->second.bytes == bytes;
}

}  // namespace

PatchPictures read_patches(const Reader& value) {
  const Members of = value.members({"most_tokens", "head_dim", "rope_theta", "window", "table", "table_side",
                                    "table_resized", "table_bucketed", "table_by_axis", "queries", "deep"});
  PatchPictures read;
  read.most_tokens = of["most_tokens"].integer(1, 1 << 16);
  read.head_dim = of["head_dim"].integer(1, 1 << 16);
  if (read.head_dim % 4 != 0) of["head_dim"].refuse("it must be a multiple of 4");
  if (const auto theta = of.optional("rope_theta"); theta && !theta->is_null()) {
    read.rope_theta = theta->number(0, 1e18);
    if (!(*read.rope_theta > 0)) theta->refuse("it must be above 0");
  }
  read.window = size_or_none(of, "window", 64);
  if (const auto table = of.optional("table"); table && !table->is_null()) read.table = file_name(*table);
  read.table_side = size_or_none(of, "table_side", 4096);
  const auto is_there = [&of](const char* key) {
    const auto flag = of.optional(key);
    if (!flag || flag->is_null()) return false;
    if (!flag->boolean()) flag->refuse("it must be true, or left out");
    return true;
  };
  read.table_resized = is_there("table_resized"), read.table_bucketed = is_there("table_bucketed");
  read.table_by_axis = is_there("table_by_axis");
  read.queries = size_or_none(of, "queries", 4096);
  read.deep = size_or_none(of, "deep", 16);
  if (read.table.empty() == read.table_side.has_value()) value.refuse("table and table_side belong together");
  return read;
}

MropePositions read_positions(const Reader& value) {
  const Members of = value.members({"kind", "sections", "interleaved", "rope"});
  of["kind"].choice({"mrope"});
  MropePositions read;
  read.sections = of["sections"].list([](const Reader& pairs) { return pairs.integer(0, 1 << 15); }, 3, 3);
  read.interleaved = of["interleaved"].boolean();
  read.rope = file_name(of["rope"]);
  if (read.interleaved && std::max(read.sections[1], read.sections[2]) > read.sections[0])
    of["sections"].refuse("an axis has more pairs than the first, between whose they lie");
  return read;
}

namespace {

// The same of what a rule has whose tower has a table for each axis.
std::optional<std::string> axes_problem(const Vision& vision) {
  const PatchPictures& patches = *vision.patches;
  const bool is_by_axis = vision.strategy == "gemma4";
  if (patches.table_by_axis != is_by_axis || (is_by_axis && patches.table.empty()))
    return "patches.table_by_axis is of the strategy gemma4, which has it";
  if (is_by_axis && (patches.window || patches.deep)) return "the strategy gemma4 has no windows and nothing deep";
  if (is_by_axis && *patches.table_side < vision.downsample_ratio * patches.most_tokens)
    return "patches.table_side is less than the patches that a picture can have in a row";
  return std::nullopt;
}

// The same of what a rule of parts alone has.
std::optional<std::string> parts_problem(const Vision& vision) {
  const PatchPictures& patches = *vision.patches;
  const bool is_sliced = vision.strategy == "minicpmv";
  if (patches.table_resized != (vision.strategy == "lfm2") || patches.table_bucketed != is_sliced)
    return "patches.table_resized is of the strategy lfm2, patches.table_bucketed of minicpmv";
  if (patches.queries && (!is_sliced || vision.downsample_ratio != 1))
    return "patches.queries are of the strategy minicpmv, whose tiles are then a patch each";
  if (is_sliced && (patches.window || patches.deep))
    return "slices of the strategy minicpmv have no windows and nothing deep";
  return std::nullopt;
}

}  // namespace

std::optional<std::string> native_problem(const Vision& vision) {
  const bool is_native = vision.patches.has_value();
  if (vision.min_pixels.has_value() != is_native) return "min_pixels and patches belong together";
  if (vision.max_pixels.has_value() != is_native) return "max_pixels and patches belong together";
  const bool in_parts = is_in_parts(vision);
  const bool is_whole = vision.strategy == "smart-resize" || vision.strategy == "gemma4";
  if ((is_whole || in_parts) != is_native)
    return "strategy " + (is_native ? std::string("smart-resize") : vision.strategy) + " and patches belong together";
  if ((vision.strategy == "lfm2") != vision.part.has_value()) return "strategy lfm2 and part belong together";
  if (!is_native) return std::nullopt;
  if (vision.tokens_per_tile != 1 || vision.packing || (vision.thumbnail != "none" && !in_parts))
    return "a tile of a picture as patches is one token, without thumbnail and packing";
  const int64_t ratio = vision.downsample_ratio;  // of at most 4096, where it divides a tile's side
  if (vision.tile_size % ratio != 0 || vision.patches_per_tile != ratio * ratio)
    return "a tile of a picture as patches has downsample_ratio x downsample_ratio of them";
  if (vision.patches->most_tokens < most_tokens(vision)) return "patches.most_tokens is less than a picture can have";
  if (vision.patches->rope_theta.has_value() == in_parts) return "patches.rope_theta is of a strategy without parts";
  if (const auto problem = axes_problem(vision)) return problem;
  return parts_problem(vision);
}

std::optional<std::string> span_problem(const Manifest& manifest, int64_t first_chunk) {
  if (!manifest.has_spans()) return std::nullopt;
  for (const auto& [engine, parts] : manifest.engines)
    if (engine != "onnx" && engine != "executorch") return engine + " has no spans of tokens that see each other";
  int64_t longest = manifest.kv_length, step = first_chunk;
  if (manifest.spans == "image") {
    if (!manifest.vision || !manifest.layout) return "spans of images are of a model that sees";
    const Vision& vision = *manifest.vision;
    const bool one = vision.candidates.size() == 1 && vision.candidates[0] == Grid{1, 1};
    const bool has_text = !manifest.layout->image_start.empty() || !manifest.layout->image_end.empty();
    if (!one || vision.thumbnail != "none" || vision.patches || !has_text)
      return "a span of an image is one tile's tokens, with text beside them";
    longest = vision.tokens_per_tile;
  } else if (manifest.single_turn == false) {
    return "a span of a prompt is of a model that answers one question (chat.single_turn)";
  }
  for (const auto& [engine, chunk] : manifest.prefill_chunks) step = std::min(step, chunk);
  if (step >= longest) return std::nullopt;
  return "a span of " + std::to_string(longest) + " tokens does not fit into a prefill_chunk of " + std::to_string(step);
}

std::optional<std::string> table_problem(const Manifest& manifest) {
  if (manifest.vision && manifest.vision->patches && !manifest.vision->patches->table.empty()) {
    const PatchPictures& native = *manifest.vision->patches;
    const int64_t rows = native.table_by_axis ? 2 : *native.table_side;
    if (!has_floats(manifest, native.table, {rows, *native.table_side, manifest.vision->hidden_size}))
      return "vision.patches.table is no file of as many float32 as its side and the tower's width say";
  }
  if (!manifest.positions) return std::nullopt;
  if (manifest.vision && is_in_parts(*manifest.vision)) return "positions are of pictures as a whole, not in parts";
  const std::vector<int64_t>& sections = manifest.positions->sections;
  const int64_t pairs = std::accumulate(sections.begin(), sections.end(), int64_t{0}), wanted = manifest.head_dim / 2;
  if (pairs != wanted)
    return "positions.sections has " + std::to_string(pairs) + " pairs, a head " + std::to_string(wanted);
  if (!has_floats(manifest, manifest.positions->rope, {2, manifest.kv_length, pairs}))
    return "positions.rope is no file of a cosine and a sine a position and pair";
  return std::nullopt;
}

}  // namespace pocketvlm
