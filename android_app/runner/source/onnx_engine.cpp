#include "onnx_engine.h"

#include <algorithm>
#include <numeric>
#include <set>

namespace pocketvlm {
namespace {

constexpr const char* kNames[] = {"token_embedding", "text_decoder", "patch_embedding", "vision_encoder"};

// What the patch embedding takes beside pixels, where a table of positions is laid over pictures.
void add_rows(Interface& inputs, const Vision& vision) {
  if (vision.patches && !vision.patches->table.empty())
    inputs["position_rows"] = {kFloat, {-1, vision.patches_per_tile, vision.hidden_size}};
}

// What the encoder takes beside patches, of pictures of native resolution.
void add_places(Interface& inputs, const Vision& vision, int64_t hidden) {
  if (!vision.patches) return;
  for (const char* name : {"rope_cos", "rope_sin"})
    inputs[name] = {kFloat, {-1, vision.patches_per_tile, vision.patches->head_dim / 2}};
  if (vision.patches->queries) inputs["key_rows"] = {kFloat, {-1, vision.patches_per_tile, hidden}};
  if (!vision.patches->window) return;
  const int64_t tiles = *vision.patches->window * *vision.patches->window;
  inputs["window_tiles"] = {kInt64, {-1, tiles}};
  inputs["window_positions"] = {kInt64, {-1}};
  inputs["window_mask"] = {kInt32, {-1, tiles * vision.patches_per_tile}};
}

// Memory of a layer's cache, under the names of the decoder's input and of its output.
struct CacheBuffer {
  std::string past, present;
  Kind kind;
};

std::vector<CacheBuffer> cache_buffers(const Manifest& manifest) {
  std::vector<CacheBuffer> buffers;
  const auto type = manifest.kv_dtype == "int8" ? ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8 : kFloat;
  for (int64_t layer = 0; layer < manifest.layers; layer++) {
    const LayerCache& cache = manifest.caches[size_t(layer)];
    const std::string number = std::to_string(layer);
    if (cache.kind == LayerCache::state) {
      buffers.push_back({"past_conv." + number, "present_conv." + number, {kFloat, cache.rows_shape()}});
      buffers.push_back({"past_state." + number, "present_state." + number, {kFloat, cache.matrix_shape()}});
    } else if (cache.kind == LayerCache::convolution) {
      const Kind rows{kFloat, {1, cache.kernel - 1 + manifest.kv_length, cache.width}};
      buffers.push_back({"past_conv." + number, "present_conv." + number, rows});
    } else if (cache.kind == LayerCache::attention) {
      const int64_t size = cache.head_dim != 0 ? cache.head_dim : manifest.head_dim;
      const Kind attention{type, {1, manifest.kv_heads, manifest.kv_length, size}};
      for (const char* part : {".key", ".value"})
        buffers.push_back({"past_key_values." + number + part, "present." + number + part, attention});
    }
  }
  return buffers;
}

// Inputs and outputs that a part must have for this manifest.
std::pair<Interface, Interface> interface_of(const Manifest& manifest, const std::string& name) {
  const int64_t hidden = manifest.hidden_size;
  if (name == "token_embedding")
    return {{{"input_ids", {kInt64, {-1, -1}}}}, {{"inputs_embeds", {kFloat, {-1, -1, manifest.embedding_width()}}}}};
  if (name == "text_decoder") {
    Interface inputs = {{"inputs_embeds", {kFloat, {1, -1, manifest.entering_width()}}},
                        {"attention_mask", {kInt64, {1, -1}}},
                        {"logits_to_keep", {kInt64, {1}}}};
    if (manifest.positions)
      for (const char* name : {"rope_cos", "rope_sin"}) inputs[name] = {kFloat, {-1, manifest.head_dim / 2}};
    if (manifest.has_spans()) inputs["last_seen"] = {kInt64, {-1}};
    Interface outputs = {{"logits", {kFloat, {1, -1, manifest.vocab_size}}}};
    for (const CacheBuffer& buffer : cache_buffers(manifest)) {
      inputs[buffer.past] = buffer.kind;
      outputs[buffer.present] = buffer.kind;
    }
    return {inputs, outputs};
  }
  const Vision& vision = *manifest.vision;
  const Interface patches = {{"patches", {kFloat, {-1, vision.patches_per_tile, vision.hidden_size}}}};
  if (name == "patch_embedding") {
    Interface pixels = {{"pixel_values", {kFloat, {-1, 3, vision.tile_size, vision.tile_size}}}};
    add_rows(pixels, vision);
    return {pixels, patches};
  }
  Interface inputs = patches;
  add_places(inputs, vision, hidden);
  return {inputs, {{"image_embeds", {kFloat, {-1, vision.tokens_per_tile, manifest.entering_width()}}}}};
}

}  // namespace

OnnxCache::OnnxCache(const Manifest& manifest, Ort::Session& decoder)
    : states_(manifest), mask_(size_t(manifest.kv_length), 1), logits_(size_t(manifest.vocab_size)), binding_(decoder) {
  std::set<std::string> taking_turns;
  for (const State& one : states_.arrays()) taking_turns.insert("past_" + one.name);
  for (const CacheBuffer& buffer : cache_buffers(manifest)) {
    if (taking_turns.count(buffer.past) != 0) continue;
    const auto& [type, shape] = buffer.kind;
    const size_t size = elements(shape) * (type == kFloat ? sizeof(float) : 1);
    // Zero pages cost no memory until they are written.
    buffers_.emplace_back(std::calloc(size, 1));
    if (buffers_.back() == nullptr) throw std::bad_alloc();
    const Ort::Value value =
        Ort::Value::CreateTensor(cpu(), buffers_.back().get(), size, shape.data(), shape.size(), type);
    binding_.BindInput(buffer.past.c_str(), value);
    binding_.BindOutput(buffer.present.c_str(), value);
  }
  binding_.BindInput("logits_to_keep", tensor(&keep_, {1}));
  binding_.BindOutput("logits", tensor(logits_.data(), {1, 1, manifest.vocab_size}));
}

void OnnxCache::bind_states() {
  for (State& one : states_.arrays()) {
    binding_.BindInput(("past_" + one.name).c_str(), tensor(one.present.data(), one.shape));
    binding_.BindOutput(("present_" + one.name).c_str(), tensor(one.next.data(), one.shape));
  }
}

OnnxEngine::OnnxEngine(const Bundle& bundle, const Library& library, int threads)
    : Engine(bundle, library),
      threads_(threads),
      rope_(bundle.manifest.positions ? std::optional<TokenRope>(bundle) : std::nullopt) {
  shrinking_.AddConfigEntry("memory.enable_memory_arena_shrinkage", "cpu:0");
  for (const Name name : {token_embedding, text_decoder}) session(name);
  if (manifest().vision)
    for (const Name name : {patch_embedding, vision_encoder}) session(name);
}

Ort::Session& OnnxEngine::session(Name name) {
  const std::lock_guard<std::mutex> lock(opening_);
  if (!sessions_[name]) sessions_[name] = std::make_unique<Ort::Session>(open(name));
  return *sessions_[name];
}

Ort::Session OnnxEngine::open(Name name) {
  const auto engine = manifest().engines.find("onnx");
  if (engine == manifest().engines.end() || engine->second.count(kNames[name]) == 0)
    throw Error(Failure::bundle, std::string("the bundle has no ONNX part ") + kNames[name] + ": export it again");
  const std::string& file = engine->second.at(kNames[name]).file;
  return clear_errors(file, Failure::bundle, [&] {
    // A gather has nothing to share out, and patches are embedded beside the encoder.
    Ort::SessionOptions options = session_options(name == token_embedding || name == patch_embedding ? 1 : threads_);
    // A pattern is kept for each input shape, and every decode step has a new length of the mask.
    if (name == text_decoder) options.DisableMemPattern();
    // Threads that wait busily for the next image would take the decoder's cores.
    else options.AddConfigEntry("session.intra_op.allow_spinning", "0");
    Ort::Session session(*library_.env, bundle_.path(file).c_str(), options);
    const auto [inputs, outputs] = interface_of(manifest(), kNames[name]);
    check_interface(file, session, inputs, outputs);
    return session;
  });
}

// One output, all in memory that is there already.
void OnnxEngine::run(Name name, Inputs given, const char* output, Ort::Value result) {
  Ort::Session& part = session(name);
  std::vector<const char*> names;
  std::vector<Ort::Value> values;
  for (auto& [input, value] : given) names.push_back(input), values.push_back(std::move(value));
  clear_errors(kNames[name], Failure::other,
               [&] { part.Run(plain_, names.data(), values.data(), values.size(), &output, &result, 1); });
}

Floats OnnxEngine::patch_embed(const Floats& pixels, int64_t count) { return patch_embed_at(pixels, count, nullptr); }

Floats OnnxEngine::patch_embed_at(const Floats& pixels, int64_t count, const float* rows) {
  const Vision& vision = *manifest().vision;
  const std::vector<int64_t> shape = {count, vision.patches_per_tile, vision.hidden_size};
  return clear_errors("patch_embedding", Failure::other, [&] {
    Floats patches(elements(shape));
    Inputs given;
    given.emplace_back("pixel_values",
                       constant(pixels.data(), {count, 3, vision.tile_size, vision.tile_size}));
    if (rows != nullptr) given.emplace_back("position_rows", constant(rows, shape));
    run(patch_embedding, std::move(given), "patches", tensor(patches.data(), shape));
    return patches;
  });
}

void OnnxEngine::encode(const Floats& patches, int64_t count, float* output) {
  const Vision& vision = *manifest().vision;
  Inputs given;
  given.emplace_back("patches", constant(patches.data(), {count, vision.patches_per_tile, vision.hidden_size}));
  run(vision_encoder, std::move(given), "image_embeds",
      tensor(output, {count, vision.tokens_per_tile, manifest().hidden_size}));
}

void OnnxEngine::encode_picture(const Floats& patches, const PicturePlace& place, float* output) {
  const Vision& vision = *manifest().vision;
  const int64_t count = place.tiles, rows = vision.patches_per_tile, pairs = vision.patches->head_dim / 2;
  Inputs given;
  given.emplace_back("patches", constant(patches.data(), {count, rows, vision.hidden_size}));
  given.emplace_back("rope_cos", constant(place.cos.data(), {count, rows, pairs}));
  given.emplace_back("rope_sin", constant(place.sin.data(), {count, rows, pairs}));
  if (place.windows) {
    const Windows& cut = *place.windows;
    const int64_t tiles = int64_t(cut.tiles.size()) / cut.count;
    given.emplace_back("window_tiles", constant(cut.tiles.data(), {cut.count, tiles}));
    given.emplace_back("window_mask", constant(cut.mask.data(), {cut.count, tiles * rows}));
    given.emplace_back("window_positions", constant(cut.positions.data(), {count}));
  }
  if (!place.key_rows.empty())
    given.emplace_back("key_rows", constant(place.key_rows.data(), {count, rows, manifest().hidden_size}));
  const int64_t tokens = vision.patches->queries.value_or(count);
  run(vision_encoder, std::move(given), "image_embeds",
      tensor(output, {tokens, vision.tokens_per_tile, manifest().entering_width()}));
}

void OnnxEngine::embed(const int64_t* ids, int64_t count, float* output) {
  Inputs given;
  given.emplace_back("input_ids", constant(ids, {1, count}));
  run(token_embedding, std::move(given), "inputs_embeds", tensor(output, {1, count, manifest().embedding_width()}));
}

std::unique_ptr<Cache> OnnxEngine::new_cache() {
  return clear_errors("the KV cache", Failure::other,
                      [&] { return std::unique_ptr<Cache>(new OnnxCache(manifest(), session(text_decoder))); });
}

// Caches are of this engine, whose only ones they are.
const float* OnnxEngine::step(float* embeddings, int64_t tokens, Cache& given, int64_t keep) {
  OnnxCache& cache = static_cast<OnnxCache&>(given);
  if (!rope_) return run_step(embeddings, tokens, cache, keep, nullptr);
  check_room(cache.position_ + tokens);
  return step_at(embeddings, cache, keep, along_text(cache.position_, tokens));
}

const float* OnnxEngine::step_at(float* embeddings, Cache& given, int64_t keep, const Positions& positions) {
  return run_step(embeddings, int64_t(positions.size()), static_cast<OnnxCache&>(given), keep, &positions);
}

const float* OnnxEngine::step_seeing(float* embeddings, Cache& given, int64_t keep,
                                     const std::vector<int64_t>& last_seen) {
  return run_step(embeddings, int64_t(last_seen.size()), static_cast<OnnxCache&>(given), keep, nullptr, &last_seen);
}

const float* OnnxEngine::run_step(float* embeddings, int64_t tokens, OnnxCache& cache, int64_t keep,
                                  const Positions* positions, const std::vector<int64_t>* last_seen) {
  const int64_t total = cache.position_ + tokens;
  check_room(total);
  Ort::Session& decoder = session(text_decoder);
  clear_errors("text_decoder", Failure::other, [&] {
    if (keep != cache.keep_) {
      cache.keep_ = keep;
      cache.logits_.resize(std::max(cache.logits_.size(), elements({keep, manifest().vocab_size})));
      cache.binding_.BindInput("logits_to_keep", tensor(&cache.keep_, {1}));
      cache.binding_.BindOutput("logits", tensor(cache.logits_.data(), {1, keep, manifest().vocab_size}));
    }
    cache.binding_.BindInput("inputs_embeds", tensor(embeddings, {1, tokens, manifest().entering_width()}));
    if (rope_ && positions != nullptr) {
      rope_->rows(*positions, cache.cos_, cache.sin_);
      cache.binding_.BindInput("rope_cos", tensor(cache.cos_.data(), {tokens, rope_->pairs()}));
      cache.binding_.BindInput("rope_sin", tensor(cache.sin_.data(), {tokens, rope_->pairs()}));
    }
    if (manifest().has_spans()) {
      cache.last_seen_.resize(size_t(tokens));
      if (last_seen != nullptr) cache.last_seen_ = *last_seen;
      else std::iota(cache.last_seen_.begin(), cache.last_seen_.end(), cache.position_);
      cache.binding_.BindInput("last_seen", tensor(cache.last_seen_.data(), {tokens}));
    }
    cache.binding_.BindInput("attention_mask", tensor(cache.mask_.data(), {1, total}));
    cache.bind_states();
    // What a chunk's activations took stays in ONNX Runtime's arena; the answer's first step gives it back.
    decoder.Run(tokens == 1 && cache.last_tokens_ > 1 ? shrinking_ : plain_, cache.binding_);
  });
  cache.states_.flip();
  cache.position_ = total, cache.last_tokens_ = tokens;
  return cache.logits_.data();
}

void OnnxEngine::free_vision() {
  {
    const std::lock_guard<std::mutex> lock(opening_);
    for (const Name name : {patch_embedding, vision_encoder}) sessions_[name].reset();
  }
  return_freed_memory();
}

}  // namespace pocketvlm
