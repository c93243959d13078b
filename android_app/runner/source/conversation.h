// A loaded bundle and its conversations: what the C API and the runner are both made of.
#pragma once

#include <atomic>
#include <deque>
#include <future>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "lookup.h"
#include "packing.h"
#include "sampling.h"
#include "select.h"

namespace pocketvlm {

struct ModelOptions : EngineOptions {
  bool verify = false, keep_vision = true;
};

class Model {
 public:
  // Failure: bundle, library.
  Model(const std::string& directory, const ModelOptions& options);
  ~Model() { closing_ = true; }
  Engine& engine() { return *selected_.engine; }
  const Manifest& manifest() const { return selected_.engine->manifest(); }
  // What runs it, and why better engines do not.
  const SelectedEngine& selected() const { return selected_; }
  double load_s() const { return load_s_; }
  // Encodes tiles in the background, one image after the other, and packs their tokens, or all of a picture together.
  std::shared_future<Floats> start_encoding(Tiles tiles, std::optional<Packed> packed);

 private:
  double load_s_;
  SelectedEngine selected_;
  const bool keep_vision_;
  Floats newline_;  // of images that are packed
  std::optional<NativeVision> native_;
  std::atomic<bool> closing_{false};
  std::mutex queue_;
  int waiting_ = 0;
  std::shared_future<Floats> last_;  // declared last: it is waited for before the engine goes
};

enum class Finish { none, stop, length, kv_length, cancelled };

struct AnswerStats {
  double encode_wait_s = 0, prefill_s = 0, decode_s = 0;
  int64_t prompt_tokens = 0, prefill_tokens = 0, generated_tokens = 0, drafted_tokens = 0, held_tokens = 0;
  Finish finish = Finish::none;
};

class Conversation {
 public:
  explicit Conversation(Model& model) : model_(model), cache_(model.engine().new_cache()) {}

  // Failure: usage for a model without vision, misfit.
  void add_image(const Rgb& image);
  // Tokens of text. Failure: misfit, where one is outside the vocabulary.
  void add_tokens(const int32_t* ids, size_t count);
  // A prompt with a placeholder for each row of `encoded`, float32 [image tokens, hidden]. Failure: misfit.
  void add_prompt(const std::vector<int32_t>& ids, Floats encoded);
  // Computes what was added; the sampler then has the logits of the first token. Failure: interrupted, misfit, usage.
  void prefill(Sampling sampling, int64_t max_new_tokens);
  std::optional<int32_t> next();
  void cancel() { cancelled_ = true; }
  void rewind(int64_t tokens);

  const std::vector<int64_t>& tokens() const { return ids_; }
  const float* logits() const { return logits_; }
  const AnswerStats& stats() const { return stats_; }
  int64_t kv_tokens_left() const { return std::max<int64_t>(0, model_.manifest().kv_length - int64_t(ids_.size())); }
  Model& model() const { return model_; }

 private:
  struct Source {
    int32_t image, row;  // -1: text
  };
  struct Image {
    std::shared_future<Floats> tokens;
    Grid grid;
  };
  void check_room(size_t more) const;
  void add_placeholders(int32_t image, int64_t first_row, int64_t rows);
  void wait_for_images(size_t first);
  void compute_chunk(int64_t first, int64_t count, Floats& embeddings);
  // The next tokens, those of the prompt at its positions and those behind it at text's, where the model has them.
  const float* step(Floats& embeddings, int64_t count, int64_t keep);
  void find_positions();
  // Of the tokens so far: the last place that each may see.
  std::vector<int64_t> find_last_seen() const;
  // Forgets what was computed of a span that does not end before this many tokens.
  void forget_span(int64_t tokens);
  bool is_stop(int64_t id) const;
  // Computes the last token, and a draft behind it; what the sampler then chooses is `chosen_`.
  void compute_token();
  // Forgets what was chosen and not given out: the cache has what it has without drafts.
  void forget_ahead();

  Model& model_;
  std::unique_ptr<Cache> cache_;
  std::vector<int64_t> ids_;
  std::vector<Source> sources_;  // where each token's embedding comes from
  std::vector<Image> images_;
  Positions positions_;  // of the prompt, where tokens have them
  int64_t lag_ = 0;      // how far those of text behind it are behind their places
  std::vector<int64_t> last_seen_;  // by each token of the prompt
  std::optional<Sampler> sampler_;
  const float* logits_ = nullptr;
  int64_t max_new_tokens_ = 0;
  int64_t answered_ = -1;  // where the first answer begins; -1: there is none
  AnswerStats stats_;
  Floats embedded_;  // of one token, or of one and a draft
  // Tokens that were chosen, the next one first, and the logits of each behind the one before.
  std::deque<int32_t> chosen_;
  const float* next_logits_ = nullptr;
  std::optional<Lookup> lookup_;  // where there are drafts
  Pace pace_;
  std::atomic<bool> cancelled_{false};
};

// Seconds of a clock that only moves forward.
double now();

}  // namespace pocketvlm
