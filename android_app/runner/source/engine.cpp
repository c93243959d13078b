#include "engine.h"

#include <algorithm>

#include "npu_engine.h"
#include "onnx_engine.h"

namespace pocketvlm {
namespace {

// The bundle, its manifest saying what holds for the parts of one engine.
Bundle for_engine(const Bundle& bundle, const std::string& parts) {
  Bundle own = bundle;
  const auto chunk = own.manifest.prefill_chunks.find(parts);
  if (chunk != own.manifest.prefill_chunks.end()) own.manifest.prefill_chunk = chunk->second;
  return own;
}

// What open_engine refuses by name.
[[noreturn]] void no_native() { throw Error(Failure::usage, "this engine has no pictures of native resolution"); }
[[noreturn]] void no_spans() { throw Error(Failure::usage, "this engine has no tokens that see what is behind them"); }

}  // namespace

Floats Engine::patch_embed_at(const Floats&, int64_t, const float*) { no_native(); }
void Engine::encode_picture(const Floats&, const PicturePlace&, float*) { no_native(); }
const float* Engine::step_at(float*, Cache&, int64_t, const Positions&) { no_native(); }
const float* Engine::step_seeing(float*, Cache&, int64_t, const std::vector<int64_t>&) { no_spans(); }

void Engine::enter(const int64_t* ids, int64_t count, float* output) {
  const int64_t hidden = manifest().embedding_width(), width = manifest().entering_width();
  embed(ids, count, output);
  if (width == hidden) return;
  // [count, hidden] -> [count, width] in place, the last first
  for (int64_t token = count - 1; token >= 0; token--) {
    std::copy_backward(output + token * hidden, output + (token + 1) * hidden, output + token * width + hidden);
    std::fill(output + token * width + hidden, output + (token + 1) * width, 0.0f);
  }
}

void Engine::check_room(int64_t total) const {
  if (total > manifest().kv_length)
    throw Error(Failure::misfit, std::to_string(total) + " tokens do not fit into the KV length of " +
                                     std::to_string(manifest().kv_length));
}

bool may_die(const std::string& engine) { return engine == "qnn"; }

std::unique_ptr<Engine> open_engine(const std::string& name, const Bundle& bundle, const Library& library,
                                    int threads) {
  if (bundle.manifest.minimum_onnxruntime) {
    try {
      check_minimum("onnxruntime", *bundle.manifest.minimum_onnxruntime, library.version);
    } catch (const Error& error) {
      throw Error(Failure::library, error.what());
    }
  }
  const bool is_native = bundle.manifest.positions || (bundle.manifest.vision && bundle.manifest.vision->patches);
  if (is_native && name != "onnx" && std::find(std::begin(kEngines), std::end(kEngines), name) != std::end(kEngines))
    throw Error(Failure::bundle, "patches as input are not yet run by the engine " + name + ": use onnx");
  if (bundle.manifest.has_spans() && name != "onnx" && std::find(std::begin(kEngines), std::end(kEngines), name) != std::end(kEngines))
    throw Error(Failure::bundle, "tokens that see what is behind them are not run by the engine " + name + ": use onnx");
  if (name == "onnx") return std::make_unique<OnnxEngine>(for_engine(bundle, "onnx"), library, threads);
  if (name == "qnn" || name == "qnn-emulation")
    return std::make_unique<NpuEngine>(for_engine(bundle, "qnn"), library, threads, name == "qnn");
  throw Error(Failure::usage, "there is no engine '" + one_line(name, 40) + "': choose onnx, qnn or qnn-emulation");
}

}  // namespace pocketvlm
