#include "engine.h"

#ifdef __GLIBC__
#include <malloc.h>
#endif

#include <algorithm>
#include <fstream>
#include <map>
#include <set>
#include <sstream>
#include <string_view>

namespace pocketvlm {
namespace {

constexpr const char* kNames[] = {"token_embedding", "text_decoder", "patch_embedding", "vision_encoder"};

const Ort::MemoryInfo& cpu() {
  static const auto* info = new Ort::MemoryInfo(Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeDefault));
  return *info;
}

template <typename Element>
Ort::Value tensor(Element* data, std::initializer_list<int64_t> shape) {
  return Ort::Value::CreateTensor<Element>(cpu(), data, elements(shape), shape.begin(), shape.size());
}

// ONNX Runtime's exceptions as one line, with the failure that they are of: `failure`, unless it lacks an operator.
template <typename Work>
auto clear_errors(const std::string& what, Failure failure, Work work) -> decltype(work()) {
  try {
    return work();
  } catch (const Ort::Exception& error) {
    const std::string_view said = error.what();
    const bool unknown = error.GetOrtErrorCode() == ORT_NOT_IMPLEMENTED ||
                         said.find("is not a registered function/op") != std::string_view::npos ||
                         said.find("No Op registered for") != std::string_view::npos;
    throw Error(unknown ? Failure::other : failure, what + " failed in ONNX Runtime: " + one_line(error.what()));
  } catch (const std::bad_alloc&) {
    throw Error(Failure::other, what + ": not enough memory");
  } catch (const std::length_error&) {
    throw Error(Failure::other, what + ": not enough memory");
  }
}

#if defined(__x86_64__)
// Whether this CPU multiplies bytes and adds them in 32 bits (pocketvlm/machine/exact_sums.py).
bool has_exact_kernels() {
  std::ifstream cpuinfo("/proc/cpuinfo");
  for (std::string line, word; std::getline(cpuinfo, line);) {
    if (line.compare(0, 5, "flags") != 0) continue;
    std::istringstream words(line);
    while (words >> word)
      if (word == "avx512_vnni" || word == "avx_vnni") return true;
    return false;
  }
  return false;
}
#endif

// Element type and shape of an input or output; -1 is a size that varies.
struct Kind {
  ONNXTensorElementDataType type;
  std::vector<int64_t> shape;
};
using Interface = std::map<std::string, Kind>;
constexpr auto kFloat = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
constexpr auto kInt64 = ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;

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

Kind kind_of(const Ort::TypeInfo& info) {
  if (info.GetONNXType() != ONNX_TYPE_TENSOR) return {ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED, {}};
  const auto tensor_info = info.GetTensorTypeAndShapeInfo();
  return {tensor_info.GetElementType(), tensor_info.GetShape()};
}

void check_values(const std::string& file, const std::string& direction, const Interface& wanted,
                  const Interface& found) {
  for (const auto& [name, kind] : wanted) {
    const auto value = found.find(name);
    if (value == found.end())
      throw Error(Failure::bundle, file + " has no " + direction + " '" + name + "': export the bundle again");
    const std::vector<int64_t>& shape = value->second.shape;
    bool same = value->second.type == kind.type && shape.size() == kind.shape.size();
    for (size_t i = 0; same && i < shape.size(); i++) same = kind.shape[i] < 0 || kind.shape[i] == shape[i];
    if (!same) throw Error(Failure::bundle, file + ": " + direction + " '" + name + "' is not what the manifest says");
  }
  if (direction == "output") return;
  for (const auto& [name, kind] : found)
    if (wanted.count(name) == 0)
      throw Error(Failure::bundle, file + " has an unknown input '" + one_line(name, 80) + "': update this program");
}

// The session's interface must be what the manifest says.
void check_interface(const std::string& file, const Ort::Session& session, const Manifest& manifest,
                     const std::string& name) {
  const Ort::AllocatorWithDefaultOptions allocator;
  Interface inputs, outputs;
  for (size_t i = 0; i < session.GetInputCount(); i++)
    inputs[session.GetInputNameAllocated(i, allocator).get()] = kind_of(session.GetInputTypeInfo(i));
  for (size_t i = 0; i < session.GetOverridableInitializerCount(); i++)
    inputs[session.GetOverridableInitializerNameAllocated(i, allocator).get()] =
        kind_of(session.GetOverridableInitializerTypeInfo(i));
  for (size_t i = 0; i < session.GetOutputCount(); i++)
    outputs[session.GetOutputNameAllocated(i, allocator).get()] = kind_of(session.GetOutputTypeInfo(i));
  const auto [wanted_inputs, wanted_outputs] = interface_of(manifest, name);
  check_values(file, "input", wanted_inputs, inputs);
  check_values(file, "output", wanted_outputs, outputs);
}

}  // namespace

size_t elements(std::initializer_list<int64_t> shape) {
  int64_t count = 1;
  for (const int64_t size : shape)
    if (__builtin_mul_overflow(count, size, &count)) throw std::length_error("a tensor is too large");
  return size_t(count);
}

Cache::Cache(const Manifest& manifest, Ort::Session& decoder)
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

Engine::Engine(const Bundle& bundle, const Library& library, int threads)
    : bundle_(bundle), library_(library), threads_(threads) {
  if (manifest().minimum_onnxruntime) {
    try {
      check_minimum("onnxruntime", *manifest().minimum_onnxruntime, library.version);
    } catch (const Error& error) {
      throw Error(Failure::library, error.what());
    }
  }
  shrinking_.AddConfigEntry("memory.enable_memory_arena_shrinkage", "cpu:0");
  for (const Name name : {token_embedding, text_decoder}) session(name);
  if (manifest().vision)
    for (const Name name : {patch_embedding, vision_encoder}) session(name);
}

Ort::Session& Engine::session(Name name) {
  const std::lock_guard<std::mutex> lock(opening_);
  if (!sessions_[name]) sessions_[name] = std::make_unique<Ort::Session>(open(name));
  return *sessions_[name];
}

Ort::Session Engine::open(Name name) {
  const auto engine = manifest().engines.find("onnx");
  if (engine == manifest().engines.end() || engine->second.count(kNames[name]) == 0)
    throw Error(Failure::bundle, std::string("the bundle has no ONNX part ") + kNames[name] + ": export it again");
  const std::string& file = engine->second.at(kNames[name]).file;
  return clear_errors(file, Failure::bundle, [&] {
    Ort::SessionOptions options;
    // A gather has nothing to share out, and patches are embedded beside the encoder.
    options.SetIntraOpNumThreads(name == token_embedding || name == patch_embedding ? 1 : threads_);
    options.SetInterOpNumThreads(1);
    options.SetLogSeverityLevel(ORT_LOGGING_LEVEL_FATAL);
#if defined(__x86_64__)
    options.AddConfigEntry("session.x64quantprecision", has_exact_kernels() ? "0" : "1");
#endif
    // A pattern is kept for each input shape, and every decode step has a new length of the mask.
    if (name == text_decoder) options.DisableMemPattern();
    // Threads that wait busily for the next image would take the decoder's cores.
    else options.AddConfigEntry("session.intra_op.allow_spinning", "0");
    Ort::Session session(*library_.env, bundle_.path(file).c_str(), options);
    check_interface(file, session, manifest(), kNames[name]);
    return session;
  });
}

// One input, one output, both in memory that is there already.
void Engine::run(Name name, const char* input, Ort::Value given, const char* output, Ort::Value result) {
  Ort::Session& part = session(name);
  clear_errors(kNames[name], Failure::other, [&] { part.Run(plain_, &input, &given, 1, &output, &result, 1); });
}

Floats Engine::patch_embed(const Floats& pixels, int64_t count) {
  const Vision& vision = *manifest().vision;
  return clear_errors("patch_embedding", Failure::other, [&] {
    Floats patches(elements({count, vision.patches_per_tile, vision.hidden_size}));
    run(patch_embedding, "pixel_values",
        tensor(const_cast<float*>(pixels.data()), {count, 3, vision.tile_size, vision.tile_size}), "patches",
        tensor(patches.data(), {count, vision.patches_per_tile, vision.hidden_size}));
    return patches;
  });
}

void Engine::encode(const Floats& patches, int64_t count, float* output) {
  const Vision& vision = *manifest().vision;
  run(vision_encoder, "patches",
      tensor(const_cast<float*>(patches.data()), {count, vision.patches_per_tile, vision.hidden_size}), "image_embeds",
      tensor(output, {count, vision.tokens_per_tile, manifest().hidden_size}));
}

void Engine::embed(const int64_t* ids, int64_t count, float* output) {
  run(token_embedding, "input_ids", tensor(const_cast<int64_t*>(ids), {1, count}), "inputs_embeds",
      tensor(output, {1, count, manifest().hidden_size}));
}

std::unique_ptr<Cache> Engine::new_cache() {
  return clear_errors("the KV cache", Failure::other,
                      [&] { return std::unique_ptr<Cache>(new Cache(manifest(), session(text_decoder))); });
}

const float* Engine::step(float* embeddings, int64_t tokens, Cache& cache) {
  const int64_t total = cache.position + tokens;
  if (total > manifest().kv_length)
    throw Error(Failure::misfit, std::to_string(total) + " tokens do not fit into the KV length of " +
                                     std::to_string(manifest().kv_length));
  Ort::Session& decoder = session(text_decoder);
  clear_errors("text_decoder", Failure::other, [&] {
    cache.binding_.BindInput("inputs_embeds", tensor(embeddings, {1, tokens, manifest().hidden_size}));
    cache.binding_.BindInput("attention_mask", tensor(cache.mask_.data(), {1, total}));
    // What a chunk's activations took stays in ONNX Runtime's arena; the answer's first step gives it back.
    decoder.Run(tokens == 1 && cache.last_tokens_ > 1 ? shrinking_ : plain_, cache.binding_);
  });
  cache.position = total, cache.last_tokens_ = tokens;
  return cache.logits_.data();
}

void Engine::free_vision() {
  {
    const std::lock_guard<std::mutex> lock(opening_);
    for (const Name name : {patch_embedding, vision_encoder}) sessions_[name].reset();
  }
#ifdef __GLIBC__
  malloc_trim(0);
#endif
}

}  // namespace pocketvlm
