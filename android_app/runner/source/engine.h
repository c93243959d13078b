// The parts of a bundle as ONNX Runtime sessions, with the settings of runtime/engines/onnx.py.
#pragma once

#include <array>
#include <cstdint>
#include <cstdlib>
#include <initializer_list>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "bundle.h"
#include "images.h"
#include "library.h"

namespace pocketvlm {

using Floats = std::vector<float>;

// How many elements a shape has. std::length_error, where that is more than memory can hold.
size_t elements(std::initializer_list<int64_t> shape);

// The KV cache of one conversation: a key and a value buffer a layer, [1, heads, length, head_dim], bound once as past
// and as present. GroupQueryAttention writes new rows in place; rows after `position` are never read.
class Cache {
 public:
  int64_t position = 0;

 private:
  friend class Engine;
  Cache(const Manifest& manifest, Ort::Session& decoder);

  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };
  std::vector<std::unique_ptr<void, Free>> buffers_;
  std::vector<int64_t> mask_;  // ones
  Floats logits_;              // of the last token
  int64_t keep_ = 1, last_tokens_ = 0;
  Ort::IoBinding binding_;
};

class Engine {
 public:
  // Failure: bundle, where a graph does not load or is not what the manifest says; library.
  Engine(const Bundle& bundle, const Library& library, int threads);

  // float32 [tiles, 3, tile, tile] -> [tiles, patches, vision width]
  Floats patch_embed(const Floats& pixels, int64_t count);
  // float32 [tiles, patches, vision width] -> [tiles, tokens per tile, hidden], into `output`
  void encode(const Floats& patches, int64_t count, float* output);
  // [tokens] -> float32 [tokens, hidden], into `output`
  void embed(const int64_t* ids, int64_t count, float* output);
  std::unique_ptr<Cache> new_cache();
  // Runs tokens float32 [tokens, hidden] behind those in the cache; logits [vocabulary] of the last one, valid until
  // the cache's next step. Failure: misfit, where the cache has no room; it is left as it was.
  const float* step(float* embeddings, int64_t tokens, Cache& cache);
  // Frees the vision part; the next image loads it again.
  void free_vision();

  const Manifest& manifest() const { return bundle_.manifest; }
  const Library& library() const { return library_; }

 private:
  enum Name { token_embedding, text_decoder, patch_embedding, vision_encoder };
  Ort::Session& session(Name name);
  Ort::Session open(Name name);
  void run(Name name, const char* input, Ort::Value given, const char* output, Ort::Value result);

  const Bundle bundle_;
  const Library& library_;
  const int threads_;
  std::mutex opening_;
  std::array<std::unique_ptr<Ort::Session>, 4> sessions_;
  Ort::RunOptions plain_, shrinking_;
};

}  // namespace pocketvlm
