#include "manifest.h"

#include <algorithm>

#include "error.h"
#include "json.h"
#include "manifest_caches.h"
#include "manifest_chat.h"
#include "manifest_native.h"

namespace pocketvlm {
namespace {

using json::Array;
using json::Members;
using json::Reader;

// 2 is 1 with parts of other engines, which are checked here and not run; 3 says more of pictures and of the chat layout
constexpr int64_t kFormat = 5;
constexpr int64_t kMost = int64_t{1} << 40;  // of a size, as in pocketvlm/bundle/fields.py
constexpr int64_t kMaxValues = 1 << 16;      // counted by commas, before any is looked at
constexpr size_t kName = 512, kText = 1 << 16, kMaxSide = 64, kMaxNumbers = 256, kMaxRank = 16;

int64_t positive(const Reader& value) { return value.integer(1, kMost); }
int32_t token_id(const Reader& value) { return int32_t(value.integer(0, INT32_MAX)); }
TokenIds token_ids(const Reader& value) { return value.list(token_id, 0, 256); }
double finite(const Reader& value) { return value.number(); }
std::string name_of(const Reader& value) { return value.text(kName); }

std::string sha256(const Reader& value) {
  const std::string& digits = value.text();
  if (digits.size() != 64 || digits.find_first_not_of("0123456789abcdef") != std::string::npos)
    value.refuse("it is not a SHA-256 in lower-case hexadecimal");
  return digits;
}

FileEntry file_entry(const Reader& value) {
  const Members of = value.members({"bytes", "sha256", "sample_sha256"});
  return {of["bytes"].integer(0, int64_t{1} << 44), sha256(of["sha256"]), sha256(of["sample_sha256"])};
}

bool check_tensor(const Reader& value) {
  const Members of = value.members({"name", "shape", "dtype"});
  of["name"].text(kName);
  const auto check_size = [](const Reader& size) {
    if (!size.is_any_integer() && !size.is_text()) size.refuse("it must be a whole number or a string");
    if (size.is_text()) size.text(kName);
    return true;
  };
  of["shape"].list(check_size, 0, kMaxRank);
  of["dtype"].choice({"float32", "int64", "int32", "int16", "int8", "uint8", "bool"});
  return true;
}

Part part(const Reader& value) {
  const Members of = value.members({"file", "data", "inputs", "outputs"});
  Part result{file_name(of["file"]), {}};
  if (const auto data = of.optional("data")) result.data = data->list(file_name);
  of["inputs"].list(check_tensor);
  of["outputs"].list(check_tensor);
  return result;
}

Grid grid(const Reader& value) {
  const std::vector<int64_t> sides = value.list(positive, 2, 2);
  return {sides[0], sides[1]};
}

int64_t color(const Reader& value) {
  // The schema takes any whole number; what is no byte is refused when the bundle is loaded (images.cpp).
  if (!value.is_any_integer()) value.refuse("it must be a whole number");
  try {
    return value.integer(0, 255);
  } catch (const json::Refused&) {
    return -1;
  }
}

Packing packing(const Reader& value) {
  const Members of = value.members({"kind", "newline", "most_tiles"});
  of["kind"].choice({"anyres"});
  Packing result{file_name(of["newline"]), {}};
  if (const auto most = of.optional("most_tiles"); most && !most->is_null()) result.most_tiles = most->integer(1, 1024);
  return result;
}

// Of the rules by which images are cut, those that the format knows.
std::string strategy(const Reader& value, int64_t format) {
  if (format < 3) return value.choice({"relaxed", "llava-next", "internvl"});
  if (format < 5) return value.choice({"relaxed", "llava-next", "internvl", "idefics3", "center-crop"});
  return value.choice({"relaxed", "llava-next", "internvl", "idefics3", "center-crop", "smart-resize", "lfm2", "minicpmv", "gemma4",
                       "pad-square"});
}

// Pictures of native resolution, which format 5 alone has.
void read_native(const Members& of, int64_t format, Vision& vision) {
  const auto pixels = [&of](const char* key) {
    const auto given = of.optional(key);
    return given && !given->is_null() ? std::optional<int64_t>(positive(*given)) : std::nullopt;
  };
  vision.min_pixels = pixels("min_pixels"), vision.max_pixels = pixels("max_pixels");
  if (const auto given = of.optional("part"); given && !given->is_null()) vision.part = given->integer(1, 64);
  if (const auto given = of.optional("patches"); given && !given->is_null()) {
    if (format < 5) given->refuse("only format 5 has it");
    vision.patches = read_patches(*given);
  }
}

Vision vision(const Reader& value, int64_t format) {
  const Members of =
      value.members({"tile_size", "strategy", "candidates", "alpha", "thumbnail", "thumbnail_of_single_tile",
                     "longest_edge", "min_pixels", "max_pixels", "resize_filter", "pad_color", "rescale", "mean", "std",
                     "tile_batch", "patches_per_tile", "vision_hidden_size", "downsample_ratio", "tokens_per_tile",
                     "replaces", "packing", "patches", "part"});
  Vision result;
  result.tile_size = of["tile_size"].integer(1, 4096);
  result.strategy = strategy(of["strategy"], format);
  result.resize_filter = format < 3   ? of["resize_filter"].choice({"bicubic"})
                         : format < 5 ? of["resize_filter"].choice({"bicubic", "lanczos"})
                                      : of["resize_filter"].choice({"bicubic", "lanczos", "bilinear"});
  if (const auto replaced = in_format_3(of, "replaces", format)) name_of(*replaced);  // for people
  if (const auto longest = in_format_3(of, "longest_edge", format)) result.longest_edge = longest->integer(1, 4096);
  result.candidates = of["candidates"].list(grid, 1, 256);
  result.alpha = of["alpha"].number(0, 1);
  result.thumbnail = of["thumbnail"].choice({"first", "last", "none"});
  result.thumbnail_of_single_tile = of["thumbnail_of_single_tile"].boolean();
  result.pad_color = of["pad_color"].list(color, 3, 3);
  result.rescale = finite(of["rescale"]);
  result.mean = of["mean"].list(finite, 3, 3);
  result.std = of["std"].list(finite, 3, 3);
  result.tile_batch = of["tile_batch"].integer(1, 64);
  result.patches_per_tile = positive(of["patches_per_tile"]);
  result.hidden_size = positive(of["vision_hidden_size"]);
  result.downsample_ratio = positive(of["downsample_ratio"]);
  result.tokens_per_tile = of["tokens_per_tile"].integer(1, 1 << 16);
  if (const auto given = in_format_3(of, "packing", format)) result.packing = packing(*given);
  read_native(of, format, result);
  if (const auto problem = native_problem(result)) value.refuse(*problem);
  if (result.packing) {
    if (result.thumbnail != "first" || !result.thumbnail_of_single_tile)
      value.refuse("packing begins with a thumbnail, which not every image has first");
    if (result.strategy != "relaxed" && result.strategy != "llava-next")
      value.refuse("packing takes padding away, and this rule stretches images");
    if (result.tokens_per_side() * result.tokens_per_side() != result.tokens_per_tile)
      value.refuse("packing needs a square of tokens a tile");
  }
  return result;
}

ImageLayout image_layout(const Reader& value, int64_t format) {
  const Members of =
      value.members({"image_start", "thumbnail", "tile", "row_end", "image_end", "lone", "last_row_end", "tile_end",
                     "thumbnail_end", "numbers"});
  ImageLayout result;
  result.image_start = token_ids(of["image_start"]);
  result.thumbnail = token_ids(of["thumbnail"]);
  result.tile = of["tile"].list([](const Reader& row) { return row.list(token_ids, 0, kMaxSide); }, 0, kMaxSide);
  result.row_end = token_ids(of["row_end"]);
  result.image_end = token_ids(of["image_end"]);
  if (const auto lone = in_format_3(of, "lone", format)) result.lone = token_ids(*lone);
  if (const auto last = in_format_3(of, "last_row_end", format)) result.last_row_end = token_ids(*last);
  if (const auto end = in_format_5(of, "tile_end", format)) result.tile_end = token_ids(*end);
  if (const auto end = in_format_5(of, "thumbnail_end", format)) result.thumbnail_end = token_ids(*end);
  if (const auto numbers = in_format_5(of, "numbers", format))
    result.numbers = numbers->list(token_ids, 1, kMaxNumbers);
  return result;
}

void check_precision(const Reader& value) {
  const Members of = value.members({"bits", "group_size", "symmetric", "quantizer", "bits_per_weight", "weights"});
  const int64_t bits = of["bits"].integer(4, 32);
  if (bits != 4 && bits != 8 && bits != 32) of["bits"].refuse("it must be 4, 8 or 32");
  if (const auto group = of.optional("group_size"); group && !group->is_null()) positive(*group);
  if (const auto symmetric = of.optional("symmetric")) symmetric->boolean();
  name_of(of["quantizer"]);
  finite(of["bits_per_weight"]);
  positive(of["weights"]);
}

void check_tensors(const Reader& tensors) {
  for (const auto& [name, tensor] : tensors.object()) {
    tensors.check_length(name, kName);
    check_precision(Reader(tensor, tensors, name));
  }
}

void check_recipe(const Reader& value) {
  const Members of = value.members({"name", "calibration", "tensors"});
  name_of(of["name"]);
  if (const auto given = of.optional("calibration"); given && !given->is_null()) {
    const Members calibration = given->members({"source", "sequences", "tokens", "sha256"});
    calibration["source"].text(kText);
    positive(calibration["sequences"]);
    positive(calibration["tokens"]);
    sha256(calibration["sha256"]);
  }
  check_tensors(of["tensors"]);
}

void check_fidelity(const Reader& value) {
  const Members of = value.members({"lowering_relative_error", "vision", "text"});
  finite(of["lowering_relative_error"]);
  if (const Reader seen = of["vision"]; !seen.is_null()) {
    const Members scores = seen.members({"cosine", "relative_error"});
    finite(scores["cosine"]);
    finite(scores["relative_error"]);
  }
  const Reader read = of["text"];
  const Members scores = read.members({"tokens", "kl_mean", "kl_median", "kl_p999", "kl_max", "top1_agreement",
                                       "perplexity_ratio", "relative_error_by_layer"});
  positive(scores["tokens"]);
  for (const char* key : {"kl_mean", "kl_median", "kl_p999", "kl_max", "top1_agreement", "perplexity_ratio"})
    finite(scores[key]);
  scores["relative_error_by_layer"].list(finite);
}

// What holds for the parts of each engine.
void read_by_engine(const Reader& value, Manifest& manifest) {
  value.members({"onnx", "executorch", "neuropilot", "qnn", "litert", "litert_npu"});
  const json::Object& given = value.object();
  std::set<std::string> named;  // of a name that stands twice the last counts
  for (const auto& [engine, own] : given) {
    named.insert(engine);
    const Reader reader(own, value, engine);
    const Members of = reader.members({"prefill_chunk", "tensors", "fidelity"});
    manifest.prefill_chunks[engine] = of["prefill_chunk"].integer(1, 1 << 16);
    if (engine == "onnx") manifest.prefill_chunk = manifest.prefill_chunks[engine];
    check_tensors(of["tensors"]);
    check_fidelity(of["fidelity"]);
    if (manifest.engines.count(engine) == 0) value.refuse("by_engine has other engines than engines");
  }
  if (!named.empty() && named.size() != manifest.engines.size())
    value.refuse("by_engine has other engines than engines");
}

// What is said of any NPU's program.
NpuProgram any_program(const Members& of, const Reader& value) {
  NpuProgram read{};
  read.prefill_tokens = of["prefill_tokens"].integer(2, 4096);
  check_fidelity(of["fidelity"]);
  if (const auto programs = of.optional("programs")) read.programs = programs->list(file_name);
  read.compiled = of["compiled"].boolean();
  if (read.compiled == read.programs.empty()) value.refuse("compiled programs and their files belong together");
  return read;
}

// The program of an NPU behind LiteRT, in one piece.
NpuProgram litert_npu_program(const Reader& value) {
  const Members of = value.members({"platform", "compiled", "programs", "prefill_tokens", "fidelity"});
  NpuProgram read = any_program(of, value);
  read.platform = of["platform"].choice({"mt6989", "mt6991", "mt6993", "sm8550", "sm8650", "sm8750", "sm8850"});
  return read;
}

// The static program of an NPU's parts, whose chunks of layers follow one another.
NpuProgram npu_program(const std::string& engine, const Reader& value, int64_t layers) {
  const Members of = value.members({"platform", "compiled", "programs", "chunks", "prefill_tokens", "tile_batches",
                                    "mask_value", "rope", "fidelity"});
  NpuProgram read = any_program(of, value);
  read.platform = engine == "qnn" ? of["platform"].choice({"sm8550", "sm8650", "sm8750", "sm8850"})
                                  : of["platform"].choice({"mt6989", "mt6991", "mt6993"});
  read.tile_batches = of["tile_batches"].list([](const Reader& batch) { return batch.integer(1, 64); });
  const Reader mask = of["mask_value"];
  read.mask_value = mask.number();
  if (!(read.mask_value < 0)) mask.refuse("it must be below 0");
  read.rope = file_name(of["rope"]);
  int64_t before = 0;
  const auto chunk = [&before](const Reader& given) {
    const Array& ends = given.array(2, 2);
    const int64_t first = Reader(ends[0], given, {}, 0).integer(0, 4095), end = positive(Reader(ends[1], given, {}, 1));
    if (first != before || end <= first) given.refuse("chunks do not follow one another");
    before = end;
    return std::make_pair(first, end);
  };
  read.chunks = of["chunks"].list(chunk, 1);
  if (before != layers) value.refuse("its chunks have another number of layers than the model");
  return read;
}

// What the sections say of each other.
void check_whole(const Manifest& manifest, const Reader& top) {
  for (const auto& [engine, parts] : manifest.engines)
    for (const auto& [name, one] : parts) {
      std::vector<std::string> used = one.data;
      used.push_back(one.file);
      for (const std::string& file : used)
        if (manifest.files.count(file) == 0)
          top.refuse(engine + " part " + one_line(name, 80) + " uses " + file + ", which 'files' does not list");
    }
  for (const auto& [engine, program] : manifest.programs) {
    std::vector<std::string> used = program.programs;
    if (engine != "litert_npu") used.push_back(program.rope);
    for (const std::string& file : used)
      if (manifest.files.count(file) == 0) top.refuse(engine + " uses " + file + ", which 'files' does not list");
  }
  if (manifest.files.count(manifest.tokenizer) == 0) top.refuse("the tokenizer is not in 'files'");
  if (manifest.vision && manifest.vision->packing) {
    const auto newline = manifest.files.find(manifest.vision->packing->newline);
    if (newline == manifest.files.end() || newline->second.bytes != 4 * manifest.hidden_size)
      top.refuse("packing.newline is no file of as many float32 as the model is wide");
  }
  if (const auto problem = table_problem(manifest)) top.refuse(*problem);
  if (manifest.vision.has_value() != manifest.layout.has_value() ||
      manifest.vision.has_value() != manifest.image_token.has_value())
    top.refuse("vision, image_layout and tokens.image belong together");
}

void read_engines(const Reader& engines, Manifest& manifest) {
  engines.members({"onnx", "executorch", "neuropilot", "qnn", "litert", "litert_npu"});
  for (const auto& [engine, parts] : engines.object()) {
    const Reader of(parts, engines, engine);
    std::map<std::string, Part> read;
    for (const auto& [name, one] : of.object()) {
      of.check_length(name, kName);
      read[name] = part(Reader(one, of, name));
    }
    manifest.engines[engine] = std::move(read);
  }
}

void read_files(const Reader& files, Manifest& manifest) {
  for (const auto& [name, entry] : files.object()) {
    const Reader reader(entry, files, name);
    if (!is_file_name(name)) reader.refuse("it is not a file name that a bundle may use");
    manifest.files[name] = file_entry(reader);
  }
}

void read_sections(const Members& top, int64_t format, Manifest& manifest) {
  const Reader given[] = {top["minimum_runtime"], top["model"], top["tokens"], top["kv_cache"]};
  const Members runtime = given[0].members({"pocketvlm", "onnxruntime", "executorch", "litert"});
  manifest.minimum_pocketvlm = name_of(runtime["pocketvlm"]);
  if (const auto version = runtime.optional("onnxruntime"); version && !version->is_null())
    manifest.minimum_onnxruntime = name_of(*version);
  if (const auto version = runtime.optional("executorch"); version && !version->is_null()) {
    name_of(*version);
    manifest.asks_for_executorch = true;
  }
  if (const auto version = runtime.optional("litert"); version && !version->is_null()) {
    name_of(*version);
    manifest.asks_for_litert = true;
  }
  const Members model =
      given[1].members({"name", "family", "revision", "vocab_size", "hidden_size", "layers", "row_width", "limits", "source",
                        "adapter"});
  manifest.model_name = name_of(model["name"]);
  name_of(model["family"]);
  name_of(model["revision"]);
  for (const char* said : {"limits", "source"})
    if (const auto text = in_format_3(model, said, format)) name_of(*text);
  if (const auto adapter = in_format_3(model, "adapter", format)) {
    const Members merged = adapter->members({"name", "sha256"});
    name_of(merged["name"]);
    sha256(merged["sha256"]);
  }
  manifest.vocab_size = positive(model["vocab_size"]);
  manifest.hidden_size = positive(model["hidden_size"]);
  manifest.layers = model["layers"].integer(1, 4096);
  if (const auto width = in_format_5(model, "row_width", format)) manifest.row_width = width->integer(1, 1 << 16);
  const Members tokens = given[2].members({"stop", "image"});
  manifest.stop = token_ids(tokens["stop"]);
  if (const Reader image = tokens["image"]; !image.is_null()) manifest.image_token = token_id(image);
  const Members kv = given[3].members({"length", "dtype", "heads", "head_dim", "layers"});
  manifest.kv_length = kv["length"].integer(1, 1 << 20);
  manifest.kv_dtype = kv["dtype"].choice({"float32", "int8"});
  manifest.kv_heads = positive(kv["heads"]);
  manifest.head_dim = positive(kv["head_dim"]);
  manifest.caches = read_caches(kv.optional("layers"), manifest.layers, manifest.head_dim, format);
}

Manifest read_manifest(const Reader& root) {
  const json::Object& values = root.object();
  // Version first: a newer bundle may have keys that this reader does not know.
  const Reader version = Members(root, values)["format_version"];
  if (!version.is_any_integer()) version.refuse("it is no whole number");
  if (version.number() > kFormat)
    root.refuse("it has a newer bundle format; this runner reads up to " + std::to_string(kFormat) + ": update it");
  const int64_t format = version.integer(1, kFormat);
  const Members top =
      root.members({"format_version", "minimum_runtime", "model", "vision", "image_layout", "tokens", "tokenizer",
                    "chat", "kv_cache", "prefill_chunk", "engines", "by_engine", "neuropilot", "qnn", "litert_npu",
                    "positions", "spans", "preference", "recipe", "fidelity", "files"});
  Manifest manifest;
  read_sections(top, format, manifest);
  if (const Reader seen = top["vision"]; !seen.is_null()) manifest.vision = vision(seen, format);
  if (const auto given = top.optional("positions"); given && !given->is_null()) {
    if (format < 5) given->refuse("only format 5 has positions");
    manifest.positions = read_positions(*given);
  }
  if (const auto given = top.optional("spans")) {
    manifest.spans = given->choice({"none", "image", "prompt"});
    if (manifest.has_spans() && format < 5) given->refuse("only format 5 has spans");
  }
  if (const Reader layout = top["image_layout"]; !layout.is_null()) manifest.layout = image_layout(layout, format);
  if (const Reader chat = top["chat"]; !chat.is_null()) manifest.has_roles = read_chat(chat, format, manifest);
  manifest.tokenizer = file_name(top["tokenizer"]);
  manifest.prefill_chunk = top["prefill_chunk"].integer(1, 1 << 16);
  const int64_t first_chunk = manifest.prefill_chunk;
  read_engines(top["engines"], manifest);
  check_recipe(top["recipe"]);
  check_fidelity(top["fidelity"]);
  read_files(top["files"], manifest);
  if (format == 1 && (manifest.asks_for_executorch || manifest.engines.count("executorch") != 0))
    root.refuse("format 1 has no ExecuTorch parts");
  const bool has_litert = manifest.engines.count("litert") != 0 || manifest.engines.count("litert_npu") != 0;
  if (format < 4 && (manifest.asks_for_litert || has_litert)) root.refuse("only format 4 has LiteRT parts");
  if (!std::all_of(manifest.caches.begin(), manifest.caches.end(), [](const LayerCache& one) { return one.is_plain(); }))
    for (const auto& [engine, parts] : manifest.engines)
      if (engine != "onnx" && engine != "executorch") root.refuse(engine + " keeps no caches of several kinds");
  if (const auto given = top.optional("by_engine")) {
    read_by_engine(*given, manifest);
    if (format == 1 && !given->object().empty()) root.refuse("format 1 has no by_engine");
  }
  for (const std::string engine : {"neuropilot", "qnn", "litert_npu"}) {
    const auto npu = top.optional(engine);
    const bool has_npu = npu && !npu->is_null();
    if (has_npu != (manifest.engines.count(engine) != 0))
      root.refuse(engine + " and engines." + engine + " belong together");
    if (!has_npu) continue;
    if (format < (engine == "litert_npu" ? 4 : engine == "qnn" ? 3 : 2))
      root.refuse("format " + std::to_string(format) + " has no parts for an NPU of that kind");
    manifest.programs[engine] = engine == "litert_npu" ? litert_npu_program(*npu)
                                                       : npu_program(engine, *npu, manifest.layers);
  }
  if (const auto given = top.optional("preference")) {
    manifest.preference = read_preference(*given);
    if (!manifest.preference.empty() && format < 4) root.refuse("only format 4 has a preference");
    std::set<std::string> listed;
    for (const PreferredEngine& one : manifest.preference)
      if (!listed.insert(one.engine).second || manifest.engines.count(one.engine) == 0)
        given->refuse("it has an engine twice, or one that engines does not have");
  }
  check_whole(manifest, root);
  if (const auto problem = span_problem(manifest, first_chunk)) root.refuse(*problem);
  return manifest;
}

}  // namespace

std::string file_name(const Reader& value) {
  if (!is_file_name(value.text())) value.refuse("it is not a file name that a bundle may use");
  return value.text();
}

bool is_file_name(std::string_view name) {
  if (name.empty() || name.size() > 255) return false;
  bool first = true;
  for (const char letter : name) {
    const bool word = (letter >= 'a' && letter <= 'z') || (letter >= 'A' && letter <= 'Z') ||
                      (letter >= '0' && letter <= '9') || letter == '_';
    const bool inner = word || letter == '.' || letter == '+' || letter == '-' || letter == '/';
    if (first ? !word : !inner) return false;
    first = letter == '/';
  }
  return !first;
}

Manifest parse_manifest(std::string_view text, const std::string& where) {
  try {
    if (std::count(text.begin(), text.end(), ',') > kMaxValues)
      throw json::Refused{"", "it has more than " + std::to_string(kMaxValues) + " values"};
    const json::Value root = json::parse(text);
    return read_manifest(Reader(root));
  } catch (const json::Refused& refused) {
    const std::string key = refused.where.empty() ? "" : " at " + one_line(refused.where, 120);
    throw Error(Failure::bundle, one_line(where) + " is not valid" + key + ": " + one_line(refused.why, 160));
  }
}

}  // namespace pocketvlm
