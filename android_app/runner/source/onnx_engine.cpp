#include "onnx_engine.h"

#include <algorithm>

namespace pocketvlm {
namespace {

constexpr const char* kNames[] = {"token_embedding", "text_decoder", "patch_embedding", "vision_encoder"};

// Inputs and outputs that a part must have for this manifest.
std::pair<Interface, Interface> interface_of(const Manifest& manifest, const std::string& name) {
  const int64_t hidden = manifest.hidden_size;
  if (name == "token_embedding")
    return {{{"input_ids", {kInt64, {-1, -1}}}}, {{"inputs_embeds", {kFloat, {-1, -1, hidden}}}}};
  if (name == "text_decoder") {
    Interface inputs = {{"inputs_embeds", {kFloat, {1, -1, hidden}}},
                        {"attention_mask", {kInt64, {1, -1}}},
                        {"logits_to_keep", {kInt64, {1}}}};
    Interface outputs = {{"logits", {kFloat, {1, -1, manifest.vocab_size}}}};
    const Kind buffer{manifest.kv_dtype == "int8" ? ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8 : kFloat,
                      {1, manifest.kv_heads, manifest.kv_length, manifest.head_dim}};
    for (int64_t layer = 0; layer < manifest.layers; layer++)
      for (const char* kind : {".key", ".value"}) {
        inputs["past_key_values." + std::to_string(layer) + kind] = buffer;
        outputs["present." + std::to_string(layer) + kind] = buffer;
      }
    return {inputs, outputs};
  }
  const Vision& vision = *manifest.vision;
  const Interface patches = {{"patches", {kFloat, {-1, vision.patches_per_tile, vision.hidden_size}}}};
  if (name == "patch_embedding")
    return {{{"pixel_values", {kFloat, {-1, 3, vision.tile_size, vision.tile_size}}}}, patches};
  return {patches, {{"image_embeds", {kFloat, {-1, vision.tokens_per_tile, hidden}}}}};
}

}  // namespace

OnnxCache::OnnxCache(const Manifest& manifest, Ort::Session& decoder)
    : mask_(size_t(manifest.kv_length), 1), logits_(size_t(manifest.vocab_size)), binding_(decoder) {
  const bool bytes = manifest.kv_dtype == "int8";
  const int64_t shape[] = {1, manifest.kv_heads, manifest.kv_length, manifest.head_dim};
  const size_t size = elements({bytes ? 1 : int64_t{sizeof(float)}, shape[1], shape[2], shape[3]});
  for (int64_t layer = 0; layer < manifest.layers; layer++)
    for (const char* kind : {".key", ".value"}) {
      // Zero pages cost no memory until they are written.
      buffers_.emplace_back(std::calloc(size, 1));
      if (buffers_.back() == nullptr) throw std::bad_alloc();
      const Ort::Value value =
          Ort::Value::CreateTensor(cpu(), buffers_.back().get(), size, shape, 4,
                                   bytes ? ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8 : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT);
      binding_.BindInput(("past_key_values." + std::to_string(layer) + kind).c_str(), value);
      binding_.BindOutput(("present." + std::to_string(layer) + kind).c_str(), value);
    }
  binding_.BindInput("logits_to_keep", tensor(&keep_, {1}));
  binding_.BindOutput("logits", tensor(logits_.data(), {1, 1, manifest.vocab_size}));
}

OnnxEngine::OnnxEngine(const Bundle& bundle, const Library& library, int threads)
    : Engine(bundle, library), threads_(threads) {
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

// One input, one output, both in memory that is there already.
void OnnxEngine::run(Name name, const char* input, Ort::Value given, const char* output, Ort::Value result) {
  Ort::Session& part = session(name);
  clear_errors(kNames[name], Failure::other, [&] { part.Run(plain_, &input, &given, 1, &output, &result, 1); });
}

Floats OnnxEngine::patch_embed(const Floats& pixels, int64_t count) {
  const Vision& vision = *manifest().vision;
  return clear_errors("patch_embedding", Failure::other, [&] {
    Floats patches(elements({count, vision.patches_per_tile, vision.hidden_size}));
    run(patch_embedding, "pixel_values",
        tensor(const_cast<float*>(pixels.data()), {count, 3, vision.tile_size, vision.tile_size}), "patches",
        tensor(patches.data(), {count, vision.patches_per_tile, vision.hidden_size}));
    return patches;
  });
}

void OnnxEngine::encode(const Floats& patches, int64_t count, float* output) {
  const Vision& vision = *manifest().vision;
  run(vision_encoder, "patches",
      tensor(const_cast<float*>(patches.data()), {count, vision.patches_per_tile, vision.hidden_size}), "image_embeds",
      tensor(output, {count, vision.tokens_per_tile, manifest().hidden_size}));
}

void OnnxEngine::embed(const int64_t* ids, int64_t count, float* output) {
  run(token_embedding, "input_ids", tensor(const_cast<int64_t*>(ids), {1, count}), "inputs_embeds",
      tensor(output, {1, count, manifest().hidden_size}));
}

std::unique_ptr<Cache> OnnxEngine::new_cache() {
  return clear_errors("the KV cache", Failure::other,
                      [&] { return std::unique_ptr<Cache>(new OnnxCache(manifest(), session(text_decoder))); });
}

const float* OnnxEngine::step(float* embeddings, int64_t tokens, Cache& given, int64_t keep) {
  OnnxCache& cache = static_cast<OnnxCache&>(given);  // of this engine, whose only caches they are
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
    cache.binding_.BindInput("inputs_embeds", tensor(embeddings, {1, tokens, manifest().hidden_size}));
    cache.binding_.BindInput("attention_mask", tensor(cache.mask_.data(), {1, total}));
    // What a chunk's activations took stays in ONNX Runtime's arena; the answer's first step gives it back.
    decoder.Run(tokens == 1 && cache.last_tokens_ > 1 ? shrinking_ : plain_, cache.binding_);
  });
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
