// What runs a bundle's parts: an engine is one class behind this one, and a line in engine.cpp.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "bundle.h"
#include "images.h"
#include "library.h"
#include "native.h"

namespace pocketvlm {

using Floats = std::vector<float>;

// The KV cache of one conversation.
class Cache {
 public:
  virtual ~Cache() = default;
  int64_t position() const { return position_; }  // tokens that it holds
  // Forgets the tokens from number `position` on. Of a model with states those behind its last copy of them before go as
  // well: position() says what is left.
  virtual void rewind(int64_t position) = 0;
  // Keeps a copy of the states here, where there are some.
  virtual void keep() {}

 protected:
  int64_t position_ = 0;
};

class Engine {
 public:
  virtual ~Engine() = default;

  // float32 [tiles, 3, tile, tile] -> [tiles, patches, vision width]
  virtual Floats patch_embed(const Floats& pixels, int64_t count) = 0;
  // float32 [tiles, patches, vision width] -> [tiles, tokens per tile, hidden], into `output`
  virtual void encode(const Floats& patches, int64_t count, float* output) = 0;
  // patch_embed of a model with a table of positions, of which `rows` [tiles, patches, vision width] are added.
  virtual Floats patch_embed_at(const Floats& pixels, int64_t count, const float* rows);
  // float32 [tiles, patches, vision width] of one picture of native resolution -> [tiles, entering width], into `output`
  virtual void encode_picture(const Floats& patches, const PicturePlace& place, float* output);
  // [tokens] -> float32 [tokens, hidden], into `output`
  virtual void embed(const int64_t* ids, int64_t count, float* output) = 0;
  virtual std::unique_ptr<Cache> new_cache() = 0;
  // [tokens] -> float32 [tokens, entering width], into `output`: zeros where layers add rows later.
  void enter(const int64_t* ids, int64_t count, float* output);
  // Runs tokens float32 [tokens, entering width] behind those in the cache; logits [keep, vocabulary] of the last ones, valid
  // until the cache's next step. Failure: misfit, where the cache has no room; it is left as it was.
  virtual const float* step(float* embeddings, int64_t tokens, Cache& cache, int64_t keep = 1) = 0;
  // The same of tokens at positions on three axes, where the model has them; a step's are those of text.
  virtual const float* step_at(float* embeddings, Cache& cache, int64_t keep, const Positions& positions);
  // The same of tokens of which each may see what is in the cache up to a place, where a model has such; a step's see up
  // to themselves.
  virtual const float* step_seeing(float* embeddings, Cache& cache, int64_t keep, const std::vector<int64_t>& last_seen);
  // Whether a step gives the logits of more than its last token.
  virtual bool keeps_several() const { return false; }
  // Frees the vision part; the next image loads it again.
  virtual void free_vision() = 0;

  const Manifest& manifest() const { return bundle_.manifest; }
  const Library& library() const { return library_; }

 protected:
  Engine(const Bundle& bundle, const Library& library) : bundle_(bundle), library_(library) {}
  // Failure: misfit.
  void check_room(int64_t total) const;

  const Bundle bundle_;
  const Library& library_;
};

// The engines of this library, by the names that one asks for; the first two also as a bundle's preference has them. An
// emulation of an NPU's program is never chosen unasked.
inline constexpr const char* kEngines[] = {"onnx", "qnn", "qnn-emulation"};

// Whether opening it may end the process: a driver is behind it.
bool may_die(const std::string& engine);

// Failure: usage for an engine that is not one of them; bundle, where a graph does not load or is not what the manifest
// says; library.
std::unique_ptr<Engine> open_engine(const std::string& name, const Bundle& bundle, const Library& library, int threads);

}  // namespace pocketvlm
