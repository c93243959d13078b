// The C API: arguments checked, exceptions turned into statuses.
#include "pocketvlm.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <new>

#include "conversation.h"

struct pocketvlm_model {
  pocketvlm_model(const char* directory, const pocketvlm::ModelOptions& options) : model(directory, options) {
    for (const auto& [name, reason] : model.selected().skipped) skipped += name + ": " + reason + "\n";
  }
  pocketvlm::Model model;
  std::string skipped;
};

struct pocketvlm_conversation {
  pocketvlm::Conversation conversation;
};

namespace pocketvlm {
namespace {

thread_local std::string last_error;

pocketvlm_status failed(pocketvlm_status status, const std::string& line) {
  last_error = line;
  return status;
}

template <typename Work>
pocketvlm_status guarded(Work work) {
  try {
    return work();
  } catch (const Error& error) {
    return failed(pocketvlm_status(error.failure()), one_line(error.what(), 1000));
  } catch (const std::bad_alloc&) {
    return failed(POCKETVLM_FAILED, "not enough memory");
  } catch (const std::exception& error) {
    return failed(POCKETVLM_FAILED, one_line(error.what()));
  }
}

// A required pointer is missing.
pocketvlm_status missing(const char* what) { return failed(POCKETVLM_USAGE, std::string(what) + " must not be NULL"); }

// Bytes of the largest resident set so far (VmHWM); 0 where the system does not say.
int64_t peak_rss_bytes() {
  int64_t kilobytes = 0;
  if (std::FILE* status = std::fopen("/proc/self/status", "r")) {
    for (char line[256]; std::fgets(line, sizeof line, status) != nullptr;)
      if (std::strncmp(line, "VmHWM:", 6) == 0) kilobytes = std::atoll(line + 6);
    std::fclose(status);
  }
  return kilobytes * 1024;
}

Sampling sampling_of(const pocketvlm_sampling& given) {
  Sampling sampling;
  sampling.temperature = given.temperature, sampling.top_p = given.top_p, sampling.top_k = given.top_k;
  sampling.repetition_penalty = given.repetition_penalty, sampling.seed = given.seed;
  sampling.lookup = given.lookup != 0;
  if (given.biases > 1024 || (given.biases > 0 && (given.bias_ids == nullptr || given.bias_values == nullptr)))
    throw Error(Failure::usage, "logit_bias has more than 1024 entries, or none where some are promised");
  for (size_t i = 0; i < given.biases; i++)
    if (!sampling.logit_bias.emplace(given.bias_ids[i], given.bias_values[i]).second)
      throw Error(Failure::usage, "logit_bias has a token more than once");
  return sampling;
}

}  // namespace
}  // namespace pocketvlm

using pocketvlm::guarded;
using pocketvlm::missing;

const char* pocketvlm_version(void) { return POCKETVLM_VERSION; }

const char* pocketvlm_last_error(void) { return pocketvlm::last_error.c_str(); }

pocketvlm_sampling pocketvlm_default_sampling(void) { return {0, 1, 1, 0, 0, 256, nullptr, nullptr, 0, 0}; }

pocketvlm_status pocketvlm_open(const char* directory, const pocketvlm_options* given, pocketvlm_model** model) {
  if (directory == nullptr || model == nullptr) return missing("directory and model");
  *model = nullptr;
  return guarded([&] {
    pocketvlm::ModelOptions options;
    if (given != nullptr) {
      if (given->threads < 1 || given->threads > 64)
        throw pocketvlm::Error(pocketvlm::Failure::usage, "threads must be from 1 to 64");
      const auto text = [](const char* one) { return std::string(one == nullptr ? "" : one); };
      options.library = text(given->library), options.threads = given->threads;
      options.verify = given->verify != 0, options.keep_vision = given->keep_vision != 0;
      options.engine = text(given->engine), options.cache = text(given->cache);
    }
    *model = new pocketvlm_model(directory, options);
    return POCKETVLM_OK;
  });
}

void pocketvlm_close(pocketvlm_model* model) { delete model; }

pocketvlm_status pocketvlm_describe(const pocketvlm_model* model, pocketvlm_info* info) {
  if (model == nullptr || info == nullptr) return missing("model and info");
  const pocketvlm::Manifest& manifest = model->model.manifest();
  *info = {manifest.vocab_size,
           manifest.hidden_size,
           manifest.kv_length,
           manifest.prefill_chunk,
           manifest.vision ? manifest.vision->tile_size : 0,
           manifest.vision ? manifest.vision->tokens_per_tile : 0,
           manifest.image_token.value_or(-1)};
  return POCKETVLM_OK;
}

const char* pocketvlm_engine(const pocketvlm_model* model) {
  return model == nullptr ? "" : model->model.selected().name.c_str();
}

const char* pocketvlm_skipped(const pocketvlm_model* model) { return model == nullptr ? "" : model->skipped.c_str(); }

pocketvlm_status pocketvlm_start(pocketvlm_model* model, pocketvlm_conversation** conversation) {
  if (model == nullptr || conversation == nullptr) return missing("model and conversation");
  *conversation = nullptr;
  return guarded([&] {
    *conversation = new pocketvlm_conversation{pocketvlm::Conversation(model->model)};
    return POCKETVLM_OK;
  });
}

void pocketvlm_end(pocketvlm_conversation* conversation) { delete conversation; }

pocketvlm_status pocketvlm_add_image(pocketvlm_conversation* conversation, const uint8_t* rgba, int64_t width,
                                     int64_t height, int64_t stride) {
  if (conversation == nullptr || rgba == nullptr) return missing("conversation and rgba");
  return guarded([&] {
    conversation->conversation.add_image(pocketvlm::flatten(rgba, width, height, stride));
    return POCKETVLM_OK;
  });
}

pocketvlm_status pocketvlm_add_tokens(pocketvlm_conversation* conversation, const int32_t* ids, size_t count) {
  if (conversation == nullptr || (ids == nullptr && count > 0)) return missing("conversation and ids");
  return guarded([&] {
    conversation->conversation.add_tokens(ids, count);
    return POCKETVLM_OK;
  });
}

pocketvlm_status pocketvlm_prefill(pocketvlm_conversation* conversation, const pocketvlm_sampling* sampling) {
  if (conversation == nullptr) return missing("conversation");
  return guarded([&] {
    const pocketvlm_sampling given = sampling == nullptr ? pocketvlm_default_sampling() : *sampling;
    conversation->conversation.prefill(pocketvlm::sampling_of(given), given.max_new_tokens);
    return POCKETVLM_OK;
  });
}

pocketvlm_status pocketvlm_next_token(pocketvlm_conversation* conversation, int32_t* id) {
  if (conversation == nullptr || id == nullptr) return missing("conversation and id");
  return guarded([&] {
    const auto token = conversation->conversation.next();
    if (token) *id = *token;
    return token ? POCKETVLM_OK : POCKETVLM_END;
  });
}

void pocketvlm_cancel(pocketvlm_conversation* conversation) {
  if (conversation != nullptr) conversation->conversation.cancel();
}

pocketvlm_status pocketvlm_rewind(pocketvlm_conversation* conversation, int64_t tokens) {
  if (conversation == nullptr) return missing("conversation");
  return guarded([&] {
    conversation->conversation.rewind(tokens);
    return POCKETVLM_OK;
  });
}

int64_t pocketvlm_tokens(const pocketvlm_conversation* conversation, int32_t* ids, size_t capacity) {
  if (conversation == nullptr) return 0;
  const auto& tokens = conversation->conversation.tokens();
  if (ids != nullptr)
    std::transform(tokens.begin(), tokens.begin() + int64_t(std::min(capacity, tokens.size())), ids,
                   [](int64_t id) { return int32_t(id); });
  return int64_t(tokens.size());
}

const float* pocketvlm_logits(const pocketvlm_conversation* conversation) {
  return conversation == nullptr ? nullptr : conversation->conversation.logits();
}

pocketvlm_status pocketvlm_get_stats(const pocketvlm_conversation* conversation, pocketvlm_stats* stats) {
  if (conversation == nullptr || stats == nullptr) return missing("conversation and stats");
  const pocketvlm::AnswerStats& answer = conversation->conversation.stats();
  *stats = {conversation->conversation.model().load_s(),
            answer.encode_wait_s,
            answer.prefill_s,
            answer.decode_s,
            answer.prompt_tokens,
            answer.prefill_tokens,
            answer.generated_tokens,
            conversation->conversation.kv_tokens_left(),
            pocketvlm::peak_rss_bytes(),
            answer.drafted_tokens,
            answer.held_tokens,
            pocketvlm_finish(answer.finish)};
  return POCKETVLM_OK;
}
