#include "engine.h"

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

}  // namespace

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
  if (name == "onnx") return std::make_unique<OnnxEngine>(for_engine(bundle, "onnx"), library, threads);
  if (name == "qnn" || name == "qnn-emulation")
    return std::make_unique<NpuEngine>(for_engine(bundle, "qnn"), library, threads, name == "qnn");
  throw Error(Failure::usage, "there is no engine '" + one_line(name, 40) + "': choose onnx, qnn or qnn-emulation");
}

}  // namespace pocketvlm
