// The parts of `engines.onnx` as ONNX Runtime sessions, with the settings of runtime/engines/onnx.py.
#pragma once

#include <array>
#include <cstdlib>
#include <mutex>

#include "engine.h"
#include "session.h"
#include "states.h"

namespace pocketvlm {

// A conversation's buffers, of each layer keys and values or a convolution's rows, bound once as past and as present. The
// graph writes new rows in place; rows after `position` are never read. Of a state one array is past and another present,
// which take turns.
class OnnxCache : public Cache {
 public:
  void rewind(int64_t position) override {
    if (position != position_) position_ = states_.empty() ? position : states_.rewind(position);
  }
  void keep() override { states_.keep(position_); }

 private:
  friend class OnnxEngine;
  OnnxCache(const Manifest& manifest, Ort::Session& decoder);

  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };
  std::vector<std::unique_ptr<void, Free>> buffers_;
  // The states that the next step reads, and where it writes those behind it.
  void bind_states();
  States states_;
  std::vector<int64_t> mask_;  // ones
  Floats logits_;              // of the last `keep_` tokens
  int64_t keep_ = 1, last_tokens_ = 0;
  Floats cos_, sin_;  // of a step's tokens, where they have positions on three axes
  std::vector<int64_t> last_seen_;  // by them, where one may see another place than its own
  Ort::IoBinding binding_;
};

class OnnxEngine : public Engine {
 public:
  OnnxEngine(const Bundle& bundle, const Library& library, int threads);
  Floats patch_embed(const Floats& pixels, int64_t count) override;
  void encode(const Floats& patches, int64_t count, float* output) override;
  Floats patch_embed_at(const Floats& pixels, int64_t count, const float* rows) override;
  void encode_picture(const Floats& patches, const PicturePlace& place, float* output) override;
  void embed(const int64_t* ids, int64_t count, float* output) override;
  std::unique_ptr<Cache> new_cache() override;
  const float* step(float* embeddings, int64_t tokens, Cache& cache, int64_t keep) override;
  const float* step_at(float* embeddings, Cache& cache, int64_t keep, const Positions& positions) override;
  const float* step_seeing(float* embeddings, Cache& cache, int64_t keep, const std::vector<int64_t>& last_seen) override;
  bool keeps_several() const override { return true; }
  void free_vision() override;

 private:
  enum Name { token_embedding, text_decoder, patch_embedding, vision_encoder };
  Ort::Session& session(Name name);
  Ort::Session open(Name name);
  using Inputs = std::vector<std::pair<const char*, Ort::Value>>;
  void run(Name name, Inputs given, const char* output, Ort::Value result);
  const float* run_step(float* embeddings, int64_t tokens, OnnxCache& cache, int64_t keep, const Positions* positions,
                        const std::vector<int64_t>* last_seen = nullptr);

  const int threads_;
  const std::optional<TokenRope> rope_;
  std::mutex opening_;
  std::array<std::unique_ptr<Ort::Session>, 4> sessions_;
  Ort::RunOptions plain_, shrinking_;
};

}  // namespace pocketvlm
