#include "npu_engine.h"

#include <algorithm>
#include <cstring>

#include "npu_program.h"

namespace pocketvlm {
namespace {

constexpr int64_t kMaxRope = int64_t{1} << 30;  // bytes, larger than any that is known

const NpuProgram& program_of(const Bundle& bundle) {
  const auto found = bundle.manifest.programs.find("qnn");
  if (found == bundle.manifest.programs.end())
    throw Error(Failure::bundle, "the bundle has no program for Qualcomm's NPU: export it with --backend qnn");
  return found->second;
}

Floats read_rope(const Bundle& bundle) {
  const Manifest& manifest = bundle.manifest;
  const std::string& name = program_of(bundle).rope;
  int64_t size = 0;
  const bool fits = !__builtin_mul_overflow(8 * manifest.kv_length, manifest.head_dim, &size) && size <= kMaxRope;
  if (!fits || manifest.files.at(name).bytes != size)
    throw Error(Failure::bundle, name + " is not the table of RoPE that the manifest asks for: export the bundle again");
  const std::string bytes = read_file(bundle.path(name), size, Failure::bundle);
  Floats rope(bytes.size() / sizeof(float));
  std::memcpy(rope.data(), bytes.data(), bytes.size());
  return rope;
}

std::string part_of(size_t chunk, int64_t tokens) {
  return "text_decoder_" + std::to_string(chunk) + "_" + std::to_string(tokens);
}

bool is_vision(const std::string& name) { return name.rfind("vision", 0) == 0 || name.rfind("patch", 0) == 0; }
bool is_embedding(const std::string& name) { return name == "token_embedding" || name == "patch_embedding"; }

std::vector<std::string> part_names(const Manifest& manifest, const NpuProgram& program) {
  std::vector<std::string> names = {"token_embedding"};
  for (size_t chunk = 0; chunk < program.chunks.size(); chunk++)
    for (const int64_t tokens : {program.prefill_tokens, int64_t{1}}) names.push_back(part_of(chunk, tokens));
  if (!manifest.vision) return names;
  names.push_back("patch_embedding");
  for (const int64_t tiles : program.tile_batches) names.push_back("vision_encoder_" + std::to_string(tiles));
  return names;
}

// Keys and values of a chunk's layers, in the order of a cache's rows.
std::vector<std::pair<std::string, size_t>> rows_of(const std::pair<int64_t, int64_t>& chunk, int64_t layers) {
  std::vector<std::pair<std::string, size_t>> rows;
  for (const char* part : {"key", "value"})
    for (int64_t layer = chunk.first; layer < chunk.second; layer++)
      rows.emplace_back("_" + std::string(part) + "." + std::to_string(layer),
                        size_t(layer + (part[0] == 'v' ? layers : 0)));
  return rows;
}

// Inputs and outputs that a part of the decoder must have.
std::pair<Interface, Interface> decoder_interface(const Manifest& manifest, const std::pair<int64_t, int64_t>& chunk,
                                                  int64_t tokens) {
  const Kind buffer{kInt8, {1, manifest.kv_heads, manifest.kv_length, manifest.head_dim}};
  const bool last = chunk.second == manifest.layers;
  Interface inputs = {{"hidden", {kFloat, {1, tokens, manifest.hidden_size}}},
                      {"mask", {kFloat, {1, 1, tokens, manifest.kv_length + tokens}}},
                      {"rope", {kFloat, {1, 2, tokens, manifest.head_dim}}}};
  Interface outputs;
  if (last) outputs["logits"] = {kFloat, {1, tokens, manifest.vocab_size}};
  else outputs["next_hidden"] = {kFloat, {1, tokens, manifest.hidden_size}};
  for (const auto& row : rows_of(chunk, manifest.layers)) {
    inputs["past" + row.first] = buffer;
    outputs["present" + row.first] = buffer;
  }
  return {inputs, outputs};
}

std::pair<Interface, Interface> interface_of(const Manifest& manifest, const NpuProgram& program,
                                             const std::string& name) {
  const int64_t hidden = manifest.hidden_size;
  if (name == "token_embedding")
    return {{{"input_ids", {kInt64, {-1, -1}}}}, {{"inputs_embeds", {kFloat, {-1, -1, hidden}}}}};
  if (is_vision(name)) {
    const Vision& vision = *manifest.vision;
    const int64_t tiles = name == "patch_embedding" ? -1 : std::stoll(name.substr(name.rfind('_') + 1));
    const Interface patches = {{"patches", {kFloat, {tiles, vision.patches_per_tile, vision.hidden_size}}}};
    if (tiles < 0) return {{{"pixel_values", {kFloat, {-1, 3, vision.tile_size, vision.tile_size}}}}, patches};
    return {patches, {{"image_embeds", {kFloat, {tiles, vision.tokens_per_tile, hidden}}}}};
  }
  for (size_t chunk = 0; chunk < program.chunks.size(); chunk++)
    for (const int64_t tokens : {program.prefill_tokens, int64_t{1}})
      if (name == part_of(chunk, tokens)) return decoder_interface(manifest, program.chunks[chunk], tokens);
  throw Error(Failure::bundle, "the bundle has no NPU part " + one_line(name, 80) + ": export it again");
}

}  // namespace

NpuCache::NpuCache(const Manifest& manifest)
    : heads_(manifest.kv_heads), length_(manifest.kv_length), head_dim_(manifest.head_dim) {
  const std::vector<int8_t> empty(elements({heads_, length_, head_dim_}), 0);
  rows_.assign(size_t(2 * manifest.layers), empty);
  next_ = rows_;
}

void NpuCache::append(int64_t tokens, int64_t padding) {
  rows_.swap(next_);
  for (std::vector<int8_t>& rows : rows_) take_back(rows.data(), heads_, length_, head_dim_, padding);
  position_ += tokens;
}

void NpuCache::rewind(int64_t position) {
  if (position == position_) return;
  for (std::vector<int8_t>& rows : rows_) take_back(rows.data(), heads_, length_, head_dim_, position_ - position);
  position_ = position;
}

NpuEngine::NpuEngine(const Bundle& bundle, const Library& library, int threads, bool compiled)
    : Engine(bundle, library), threads_(threads), compiled_(compiled), program_(program_of(bundle)),
      rope_(read_rope(bundle)) {
  if (compiled && !program_.compiled)
    throw Error(Failure::bundle, "the bundle's program for " + program_.platform +
                                     " is not compiled: export it again without --uncompiled");
  for (const std::string& name : part_names(manifest(), program_)) session(name);
}

Ort::Session& NpuEngine::session(const std::string& name) {
  const std::lock_guard<std::mutex> lock(opening_);
  std::unique_ptr<Ort::Session>& found = sessions_[name];
  if (!found) found = std::make_unique<Ort::Session>(open(name));
  return *found;
}

// A part's own graph, or the one that its compiled form is named in: see pocketvlm/export/qnn/compile.py.
std::string NpuEngine::file_of(const std::string& name) const {
  const auto& parts = manifest().engines.at("qnn");
  const auto part = parts.find(name);
  if (part == parts.end())
    throw Error(Failure::bundle, "the bundle has no NPU part " + name + ": export it again");
  const std::string& file = part->second.file;
  if (!compiled_ || is_embedding(name)) return file;
  const size_t dot = file.rfind('.');
  const std::string graph = file.substr(0, dot) + "_compiled" + file.substr(std::min(dot, file.size()));
  if (std::find(program_.programs.begin(), program_.programs.end(), graph) == program_.programs.end())
    throw Error(Failure::bundle, "the bundle has no compiled part " + name + ": export it again");
  return graph;
}

Ort::Session NpuEngine::open(const std::string& name) {
  const std::string file = file_of(name);
  return clear_errors(file, Failure::bundle, [&] {
    Ort::SessionOptions options = session_options(threads_);
    // What quantizes stays where it is: it is the program.
    options.AddConfigEntry("session.disable_quant_qdq", "1");
    options.AddConfigEntry("session.intra_op.allow_spinning", "0");
    // An arena a graph would keep what its largest step took.
    options.DisableCpuMemArena();
    options.DisableMemPattern();
    if (compiled_ && !is_embedding(name)) {
      // Graphs for a prompt's step and for one token lie in one binary.
      options.AddConfigEntry("ep.share_ep_contexts", "1");
      options.AppendExecutionProvider("QNN", {{"backend_path", "libQnnHtp.so"}});
    }
    Ort::Session session(*library_.env, bundle_.path(file).c_str(), options);
    const auto [inputs, outputs] = interface_of(manifest(), program_, name);
    check_interface(file, session, inputs, outputs);
    return session;
  });
}

void NpuEngine::run(const std::string& name, Given inputs, Given outputs) {
  Ort::Session& part = session(name);
  std::vector<const char*> given, wanted;
  for (const std::string& input : inputs.names) given.push_back(input.c_str());
  for (const std::string& output : outputs.names) wanted.push_back(output.c_str());
  clear_errors(name, Failure::other, [&] {
    part.Run(Ort::RunOptions{}, given.data(), inputs.values.data(), given.size(), wanted.data(), outputs.values.data(),
             wanted.size());
  });
}

namespace {

template <typename Given, typename Element>
void add(Given& given, const std::string& name, Element* data, const std::vector<int64_t>& shape) {
  given.names.push_back(name);
  given.values.push_back(tensor(data, shape));
}

}  // namespace

Floats NpuEngine::patch_embed(const Floats& pixels, int64_t count) {
  const Vision& vision = *manifest().vision;
  Floats patches(elements({count, vision.patches_per_tile, vision.hidden_size}));
  Given inputs, outputs;
  add(inputs, "pixel_values", const_cast<float*>(pixels.data()), {count, 3, vision.tile_size, vision.tile_size});
  add(outputs, "patches", patches.data(), {count, vision.patches_per_tile, vision.hidden_size});
  run("patch_embedding", std::move(inputs), std::move(outputs));
  return patches;
}

void NpuEngine::encode(const Floats& patches, int64_t count, float* output) {
  const Vision& vision = *manifest().vision;
  const int64_t tile_patches = vision.patches_per_tile * vision.hidden_size;
  const int64_t tile_tokens = vision.tokens_per_tile * manifest().hidden_size;
  float* from = const_cast<float*>(patches.data());
  for (const int64_t tiles : npu_batches(count, program_.tile_batches)) {
    Given inputs, outputs;
    add(inputs, "patches", from, {tiles, vision.patches_per_tile, vision.hidden_size});
    add(outputs, "image_embeds", output, {tiles, vision.tokens_per_tile, manifest().hidden_size});
    run("vision_encoder_" + std::to_string(tiles), std::move(inputs), std::move(outputs));
    from += tiles * tile_patches, output += tiles * tile_tokens;
  }
}

void NpuEngine::embed(const int64_t* ids, int64_t count, float* output) {
  Given inputs, outputs;
  add(inputs, "input_ids", const_cast<int64_t*>(ids), {1, count});
  add(outputs, "inputs_embeds", output, {1, count, manifest().hidden_size});
  run("token_embedding", std::move(inputs), std::move(outputs));
}

std::unique_ptr<Cache> NpuEngine::new_cache() {
  return clear_errors("the KV cache", Failure::other, [&] { return std::make_unique<NpuCache>(manifest()); });
}

const float* NpuEngine::step(float* embeddings, int64_t tokens, Cache& given, int64_t keep) {
  if (keep != 1) throw Error(Failure::usage, "the NPU's program gives the logits of the last token alone");
  NpuCache& cache = static_cast<NpuCache&>(given);  // of this engine, whose only caches they are
  const int64_t start = cache.position_, length = manifest().kv_length;
  check_room(start + tokens);
  int64_t last = 0;
  try {
    for (const auto& [size, real] : npu_steps(start, tokens, program_.prefill_tokens, length)) {
      run_step(embeddings, size, real, cache);
      embeddings += real * manifest().hidden_size;
      last = real - 1;
    }
  } catch (...) {
    cache.rewind(start);
    throw;
  }
  return cache.logits_.data() + last * manifest().vocab_size;
}

// At most `tokens` embeddings through the graphs for so many.
void NpuEngine::run_step(const float* embeddings, int64_t tokens, int64_t real, NpuCache& cache) {
  const Manifest& of = manifest();
  const int64_t position = cache.position_, length = of.kv_length, hidden = of.hidden_size, size = of.head_dim;
  Floats stream(elements({tokens, hidden}), 0.0f), next(stream.size());
  std::copy_n(embeddings, real * hidden, stream.begin());
  cache.logits_.resize(elements({tokens, of.vocab_size}));
  Floats mask = npu_mask(position, tokens, length, program_.mask_value);
  Floats rope(elements({2, tokens, size}));
  for (int64_t half = 0; half < 2; half++)
    for (int64_t token = 0; token < tokens; token++) {
      // Padding stands behind: its rotation is read by nobody.
      const int64_t at = std::min(position + token, length - 1);
      std::copy_n(&rope_[size_t((half * length + at) * size)], size, &rope[size_t((half * tokens + token) * size)]);
    }
  for (size_t chunk = 0; chunk < program_.chunks.size(); chunk++) {
    const bool last = program_.chunks[chunk].second == of.layers;
    Given inputs, outputs;
    add(inputs, "hidden", stream.data(), {1, tokens, hidden});
    add(inputs, "mask", mask.data(), {1, 1, tokens, length + tokens});
    add(inputs, "rope", rope.data(), {1, 2, tokens, size});
    if (last) add(outputs, "logits", cache.logits_.data(), {1, tokens, of.vocab_size});
    else add(outputs, "next_hidden", next.data(), {1, tokens, hidden});
    for (const auto& [name, row] : rows_of(program_.chunks[chunk], of.layers)) {
      add(inputs, "past" + name, cache.rows_[row].data(), {1, of.kv_heads, length, size});
      add(outputs, "present" + name, cache.next_[row].data(), {1, of.kv_heads, length, size});
    }
    run(part_of(chunk, tokens), std::move(inputs), std::move(outputs));
    stream.swap(next);
  }
  cache.append(real, tokens - real);
}

void NpuEngine::free_vision() {
  {
    const std::lock_guard<std::mutex> lock(opening_);
    for (auto one = sessions_.begin(); one != sessions_.end();)
      one = is_vision(one->first) ? sessions_.erase(one) : std::next(one);
  }
  return_freed_memory();
}

}  // namespace pocketvlm
