#include "conversation.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <numeric>

#include "layout.h"
#include "session.h"
#include "spans.h"
#include "tiling.h"
#include "vision.h"

namespace pocketvlm {

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

namespace {

// float32 [hidden], whose bytes the manifest has counted.
Floats read_newline(const Bundle& bundle) {
  const Manifest& manifest = bundle.manifest;
  const std::string bytes =
      read_file(bundle.path(manifest.vision->packing->newline), 4 * manifest.hidden_size, Failure::bundle);
  Floats newline(bytes.size() / sizeof(float));
  std::memcpy(newline.data(), bytes.data(), newline.size() * sizeof(float));
  return newline;
}

// How many image tokens each tile has, in sequence order, or each part where tiles are of parts.
std::vector<int64_t> tokens_of(const Tiles& tiles, const Vision& vision) {
  if (!is_in_parts(vision)) return std::vector<int64_t>(size_t(tiles.count), vision.tokens_per_tile);
  std::vector<int64_t> tokens;
  for (const auto& [across, down] : tiles.seen) tokens.push_back(vision.patches->queries.value_or(across * down));
  return tokens;
}

}  // namespace

Model::Model(const std::string& directory, const ModelOptions& options) : keep_vision_(options.keep_vision) {
  const double start = now();
  // The bundle first: a damaged one is told from a missing library.
  const Bundle bundle = open_bundle(directory, options.verify);
  check_minimum("pocketvlm", bundle.manifest.minimum_pocketvlm, POCKETVLM_VERSION);
  if (!bundle.manifest.has_roles) throw Error(Failure::bundle, "the manifest's chat layout lacks a role that it needs");
  if (bundle.manifest.vision) check_vision(*bundle.manifest.vision, *bundle.manifest.layout);
  selected_ = select_engine(bundle, options);
  if (bundle.manifest.vision && bundle.manifest.vision->packing) newline_ = read_newline(bundle);
  if (bundle.manifest.vision && bundle.manifest.vision->patches) native_.emplace(bundle);
  if (!keep_vision_) engine().free_vision();
  load_s_ = now() - start;
}

std::shared_future<Floats> Model::start_encoding(Tiles tiles, std::optional<Packed> packed) {
  const std::lock_guard<std::mutex> lock(queue_);
  auto work = [this, tiles = std::move(tiles), packed, previous = std::move(last_)]() mutable {
    if (previous.valid()) previous.wait();
    previous = {};  // or every image would hold the one before it
    struct Leave {
      Model* model;
      ~Leave() {
        const std::lock_guard<std::mutex> lock(model->queue_);
        if (--model->waiting_ == 0 && !model->keep_vision_) model->engine().free_vision();
      }
    } leave{this};
    const int64_t batch = manifest().vision->tile_batch;
    if (native_) return encode_picture(engine(), *native_, tiles, batch, closing_);
    Floats tokens = encode_tiles(engine(), tiles.pixels.data(), tiles.count, batch, true, closing_);
    return packed ? pack(tokens, *packed, newline_) : tokens;
  };
  last_ = std::async(std::launch::async, std::move(work)).share();
  waiting_++;  // the work leaves under the same lock
  return last_;
}

void Conversation::check_room(size_t more) const {
  const auto total = ids_.size() + more, room = size_t(model_.manifest().kv_length);
  if (total > room)
    throw Error(Failure::misfit, "the conversation would have " + std::to_string(total) + " tokens, " +
                                     std::to_string(room) + " fit into this bundle's KV cache");
}

void Conversation::add_placeholders(int32_t image, int64_t first_row, int64_t rows) {
  for (int64_t row = first_row; row < first_row + rows; row++) {
    ids_.push_back(*model_.manifest().image_token);
    sources_.push_back({image, int32_t(row)});
  }
}

void Conversation::add_image(const Rgb& given) {
  const Manifest& manifest = model_.manifest();
  if (!manifest.vision) throw Error(Failure::usage, one_line(manifest.model_name, 80) + " takes text only, no images");
  const Vision& vision = *manifest.vision;
  Tiles tiles = cut_tiles(given, vision);
  std::optional<Packed> packed;
  std::optional<int64_t> count;
  if (vision.packing) {
    const Size size{given.width, given.height};
    packed = pocketvlm::packed(size, tiles.grid, vision.tokens_per_side(), vision.packing->most_tiles);
    count = packed->tokens();
  }
  if (vision.patches && !is_in_parts(vision)) count = tiles.count;
  const std::vector<int64_t> each = tokens_of(tiles, vision);
  check_room(count ? size_t(*count) : size_t(std::accumulate(each.begin(), each.end(), int64_t{0})));
  const size_t before = ids_.size();
  const auto image = int32_t(images_.size());
  int64_t next_row = 0;
  try {
    for (const auto& [around, rows] :
         laid_out(*manifest.layout, tiles.grid, tiles.thumbnail, each, count, images_.size())) {
      add_tokens(around.data(), around.size());
      add_placeholders(image, next_row, rows);
      next_row += rows;
    }
    check_room(0);
    const Grid grid = tiles.grid;
    images_.push_back({model_.start_encoding(std::move(tiles), packed), grid});
  } catch (...) {
    ids_.resize(before);
    sources_.resize(before);
    throw;
  }
}

void Conversation::add_tokens(const int32_t* ids, size_t count) {
  const int64_t vocabulary = model_.manifest().vocab_size;
  check_room(count);
  for (size_t i = 0; i < count; i++)
    if (ids[i] < 0 || ids[i] >= vocabulary)
      throw Error(Failure::misfit, std::to_string(ids[i]) + " is no token id of this model, whose vocabulary has " +
                                       std::to_string(vocabulary));
  ids_.insert(ids_.end(), ids, ids + count);
  sources_.insert(sources_.end(), count, Source{-1, -1});
}

void Conversation::add_prompt(const std::vector<int32_t>& ids, Floats encoded) {
  const Manifest& manifest = model_.manifest();
  const int64_t rows = int64_t(encoded.size()) / manifest.hidden_size;
  const int64_t wanted = manifest.image_token ? std::count(ids.begin(), ids.end(), *manifest.image_token) : 0;
  if (wanted != rows)
    throw Error(Failure::misfit, "the prompt has " + std::to_string(wanted) + " image placeholders, the tiles have " +
                                     std::to_string(rows) + " tokens");
  check_room(ids.size());
  std::promise<Floats> ready;
  ready.set_value(std::move(encoded));
  const auto image = int32_t(images_.size());
  images_.push_back({ready.get_future().share(), {1, 1}});
  int64_t row = 0;
  for (const int32_t id : ids)
    if (wanted > 0 && id == *manifest.image_token) add_placeholders(image, row++, 1);
    else add_tokens(&id, 1);
}

void Conversation::wait_for_images(size_t first) {
  for (size_t i = first; i < sources_.size(); i++) {
    if (sources_[i].image < 0) continue;
    const auto& image = images_[size_t(sources_[i].image)].tokens;
    while (image.wait_for(std::chrono::milliseconds(20)) != std::future_status::ready)
      if (cancelled_) throw Error(Failure::interrupted, "cancelled while an image was encoded");
    image.get();  // or its error
  }
}

void Conversation::compute_chunk(int64_t first, int64_t count, Floats& embeddings) {
  const auto width = size_t(model_.manifest().entering_width());
  std::vector<int64_t> ids(ids_.begin() + first, ids_.begin() + first + count);
  // The placeholder's id need not be in the table.
  for (int64_t i = 0; i < count; i++)
    if (sources_[size_t(first + i)].image >= 0) ids[size_t(i)] = 0;
  model_.engine().enter(ids.data(), count, embeddings.data());
  for (int64_t i = 0; i < count; i++) {
    const Source source = sources_[size_t(first + i)];
    if (source.image >= 0)
      std::memcpy(&embeddings[size_t(i) * width],
                  &images_[size_t(source.image)].tokens.get()[size_t(source.row) * width], width * sizeof(float));
  }
  logits_ = step(embeddings, count, 1);
}

const float* Conversation::step(Floats& embeddings, int64_t count, int64_t keep) {
  const int64_t place = cache_->position();
  if (model_.manifest().has_spans() && place < int64_t(last_seen_.size()))
    return model_.engine().step_seeing(embeddings.data(), *cache_, keep,
                                       {last_seen_.begin() + place, last_seen_.begin() + place + count});
  if (!model_.manifest().positions) return model_.engine().step(embeddings.data(), count, *cache_, keep);
  const Positions here = place < int64_t(positions_.size())
                             ? Positions(positions_.begin() + place, positions_.begin() + place + count)
                             : along_text(place - lag_, count);
  return model_.engine().step_at(embeddings.data(), *cache_, keep, here);
}

void Conversation::find_positions() {
  std::vector<int32_t> pictures;
  std::vector<Grid> grids;
  for (const Source& source : sources_) pictures.push_back(source.image);
  for (const Image& image : images_) grids.push_back(image.grid);
  positions_ = positions_of(pictures, grids);
  int64_t largest = -1;
  for (const auto& one : positions_) largest = std::max(largest, *std::max_element(one.begin(), one.end()));
  lag_ = int64_t(positions_.size()) - largest - 1;
}

std::vector<int64_t> Conversation::find_last_seen() const {
  std::vector<int32_t> pictures;
  for (const Source& source : sources_) pictures.push_back(source.image);
  return last_seen_of(pictures, model_.manifest().spans);
}

void Conversation::forget_span(int64_t tokens) {
  if (!model_.manifest().has_spans() || tokens >= int64_t(ids_.size())) return;
  cache_->rewind(std::min(cache_->position(), begin_of_span(find_last_seen(), tokens)));
}

void Conversation::prefill(Sampling sampling, int64_t max_new_tokens) {
  forget_ahead();
  forget_span(cache_->position());
  const int64_t total = int64_t(ids_.size()), chunk = model_.manifest().prefill_chunk, computed = cache_->position();
  if (model_.manifest().answers_once() && answered_ >= 0 && total > answered_)
    throw Error(Failure::usage, "this model answers one question and takes no second one: start anew with it");
  if (max_new_tokens < 1) throw Error(Failure::usage, "max_new_tokens must be at least 1");
  if (computed >= total) throw Error(Failure::usage, "there are no new tokens to compute: add some first");
  if (sampling.lookup && model_.manifest().has_states())
    throw Error(Failure::usage, "this model keeps a state of all its tokens, which cannot forget a draft: ask without");
  std::vector<int64_t> seen;
  for (size_t i = 0; i < ids_.size(); i++)
    if (sources_[i].image < 0) seen.push_back(ids_[i]);
  sampler_.reset();
  lookup_.reset();
  pace_ = {};
  if (sampling.lookup && model_.engine().keeps_several()) {
    lookup_.emplace();
    for (size_t i = 0; i < ids_.size(); i++) lookup_->see(sources_[i].image < 0 ? ids_[i] : -1);
  }
  Sampler sampler(std::move(sampling), seen, model_.manifest().vocab_size);
  cancelled_ = false;
  stats_ = {};
  double start = now();
  wait_for_images(size_t(computed));
  stats_.encode_wait_s = now() - start;
  start = now();
  if (model_.manifest().positions) find_positions();
  last_seen_ = find_last_seen();
  Floats embeddings;
  while (cache_->position() < total) {
    if (cancelled_) throw Error(Failure::interrupted, "cancelled while the prompt was computed");
    const int64_t first = cache_->position(), count = end_of_chunk(last_seen_, first, chunk) - first;
    // An edited question begins at the first chunk, an answer to the same one at the last.
    if (first == computed || first + count >= total) cache_->keep();
    embeddings.resize(std::max(embeddings.size(), elements({count, model_.manifest().entering_width()})));
    compute_chunk(first, count, embeddings);
  }
  stats_.prompt_tokens = total, stats_.prefill_tokens = total - computed;
  stats_.prefill_s = now() - start;
  if (answered_ < 0) answered_ = total;
  sampler_.emplace(std::move(sampler));
  max_new_tokens_ = max_new_tokens;
}

bool Conversation::is_stop(int64_t id) const {
  const auto& stop = model_.manifest().stop;
  return std::find(stop.begin(), stop.end(), id) != stop.end();
}

void Conversation::compute_token() {
  const Manifest& manifest = model_.manifest();
  const double start = now();
  const int64_t before = cache_->position();
  const int64_t room = std::min(max_new_tokens_ - stats_.generated_tokens, manifest.kv_length - before);
  std::vector<int64_t> fed = lookup_ ? lookup_->draft(std::min(pace_.most(), room - 1)) : std::vector<int64_t>();
  const auto drafted = int64_t(fed.size());
  fed.insert(fed.begin(), ids_.back());
  embedded_.resize(elements({drafted + 1, manifest.entering_width()}));
  model_.engine().enter(fed.data(), drafted + 1, embedded_.data());
  logits_ = next_logits_ = step(embedded_, drafted + 1, drafted + 1);
  int64_t held = 0;
  try {
    for (;; held++) {
      chosen_.push_back(sampler_->choose(logits_ + held * manifest.vocab_size));
      if (held == drafted || chosen_.back() != fed[size_t(held + 1)] || is_stop(chosen_.back())) break;
    }
  } catch (...) {
    chosen_.clear();
    cache_->rewind(before + 1);
    throw;
  }
  cache_->rewind(before + 1 + held);
  stats_.drafted_tokens += drafted, stats_.held_tokens += held;
  pace_.took(now() - start, drafted, held);
}

void Conversation::forget_ahead() {
  cache_->rewind(cache_->position() - int64_t(chosen_.size()));
  chosen_.clear();
}

std::optional<int32_t> Conversation::next() {
  if (!sampler_) throw Error(Failure::usage, "there is no answer going on: prefill first");
  if (stats_.finish == Finish::none && cancelled_) stats_.finish = Finish::cancelled;
  if (stats_.finish != Finish::none) return std::nullopt;
  const double start = now();
  const Manifest& manifest = model_.manifest();
  if (stats_.generated_tokens == 0) chosen_.push_back(sampler_->choose(logits_));
  else if (chosen_.empty()) compute_token();
  else logits_ = next_logits_ += manifest.vocab_size;
  const int32_t id = chosen_.front();
  chosen_.pop_front();
  if (lookup_) lookup_->see(id);
  if (++stats_.generated_tokens > 1) stats_.decode_s += now() - start;
  if (is_stop(id)) stats_.finish = Finish::stop;
  else if (stats_.generated_tokens >= max_new_tokens_) stats_.finish = Finish::length;
  else if (cache_->position() - int64_t(chosen_.size()) >= manifest.kv_length) stats_.finish = Finish::kv_length;
  ids_.push_back(id);
  sources_.push_back({-1, -1});
  return id;
}

void Conversation::rewind(int64_t tokens) {
  if (tokens < 0 || tokens > int64_t(ids_.size()))
    throw Error(Failure::usage, "there are " + std::to_string(ids_.size()) + " tokens to go back to");
  forget_ahead();
  forget_span(tokens);
  cache_->rewind(std::min(cache_->position(), tokens));
  ids_.resize(size_t(tokens));
  sources_.resize(size_t(tokens));
  if (tokens == 0) images_.clear();
  if (tokens <= answered_) answered_ = -1;
  sampler_.reset();
  logits_ = nullptr;
  stats_ = {};
}

}  // namespace pocketvlm
