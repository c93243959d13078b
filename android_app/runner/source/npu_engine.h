// The NPU's program of `engines.qnn` in sessions of ONNX Runtime: compiled, by the QNN execution provider of a phone, or
// its QDQ graphs on any CPU, which is an emulation.
#pragma once

#include <mutex>

#include "engine.h"
#include "session.h"

namespace pocketvlm {

// Keys and values of each layer, int8 [1, heads, length, head_dim], the newest token in the last row.
class NpuCache : public Cache {
 public:
  explicit NpuCache(const Manifest& manifest);
  void rewind(int64_t position) override;

 private:
  friend class NpuEngine;
  // What a step gave: `tokens` more, and rows of padding behind them.
  void append(int64_t tokens, int64_t padding);

  const int64_t heads_, length_, head_dim_;
  std::vector<std::vector<int8_t>> rows_, next_;  // of each layer's keys and values, and what a step writes
  Floats logits_;                                 // of a step's tokens
};

class NpuEngine : public Engine {
 public:
  NpuEngine(const Bundle& bundle, const Library& library, int threads, bool compiled);
  Floats patch_embed(const Floats& pixels, int64_t count) override;
  void encode(const Floats& patches, int64_t count, float* output) override;
  void embed(const int64_t* ids, int64_t count, float* output) override;
  std::unique_ptr<Cache> new_cache() override;
  const float* step(float* embeddings, int64_t tokens, Cache& cache, int64_t keep) override;
  void free_vision() override;

 private:
  struct Given {
    std::vector<std::string> names;
    std::vector<Ort::Value> values;
  };
  Ort::Session& session(const std::string& name);
  Ort::Session open(const std::string& name);
  std::string file_of(const std::string& name) const;
  void run(const std::string& name, Given inputs, Given outputs);
  void run_step(const float* embeddings, int64_t tokens, int64_t real, NpuCache& cache);

  const int threads_;
  const bool compiled_;
  const NpuProgram program_;
  const Floats rope_;  // [2, length, head_dim]
  std::mutex opening_;
  std::map<std::string, std::unique_ptr<Ort::Session>> sessions_;
};

}  // namespace pocketvlm
