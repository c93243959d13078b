/* libpocketvlm: a vision-language model's bundle on a phone, tokens in and tokens out.
 *
 * Text becomes tokens with the bundle's tokenizer.json (Hugging Face tokenizers format) and the chat layout of its
 * manifest (docs/bundle-format.md): that is not in this library, since none that reads it is packaged for C++.
 *
 * Every function that can fail gives a pocketvlm_status; pocketvlm_last_error() says why on one line. A model serves
 * several conversations; a conversation is used by one thread at a time, but for pocketvlm_cancel. Nothing a caller
 * passes is kept after the call returns. See docs/native-embedding.md for an example. */
#ifndef POCKETVLM_H
#define POCKETVLM_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(_WIN32)
#define POCKETVLM_API
#else
#define POCKETVLM_API __attribute__((visibility("default")))
#endif

typedef enum pocketvlm_status {
  POCKETVLM_OK = 0,
  POCKETVLM_FAILED = 1,    /* whatever is none of the following: memory, an operator that is not known */
  POCKETVLM_USAGE = 2,     /* an argument is wrong */
  POCKETVLM_BUNDLE = 3,    /* the bundle is damaged, too new, or does not load */
  POCKETVLM_LIBRARY = 4,   /* ONNX Runtime cannot be opened, or is too old */
  POCKETVLM_CANCELLED = 6, /* pocketvlm_cancel was called meanwhile */
  POCKETVLM_CAPACITY = 8,  /* tokens outside the vocabulary, or more than the KV cache holds */
  POCKETVLM_END = 16       /* pocketvlm_next_token: the answer is over */
} pocketvlm_status;

typedef enum pocketvlm_finish {
  POCKETVLM_NOT_FINISHED = 0,
  POCKETVLM_STOP = 1,      /* a stop token, which was given out */
  POCKETVLM_LENGTH = 2,    /* max_new_tokens */
  POCKETVLM_KV_LENGTH = 3, /* the KV cache is full */
  POCKETVLM_BY_CANCEL = 4
} pocketvlm_finish;

typedef struct pocketvlm_model pocketvlm_model;
typedef struct pocketvlm_conversation pocketvlm_conversation;

typedef struct pocketvlm_options {
  const char* library; /* file of ONNX Runtime's shared library; NULL: libonnxruntime.so.1 where the loader finds it.
                          A process opens one library, the first. */
  int32_t threads;     /* of the encoder and of the decoder, 1 to 64 */
  int32_t verify;      /* other than 0: hash every file whole */
  int32_t keep_vision; /* 0: the vision part is in memory only while an image is encoded */
  const char* engine;  /* "onnx", "qnn", "qnn-emulation"; NULL: the best by the bundle's preference that runs here */
  const char* cache;   /* folder where it is kept which engines end the process that opens them, so that it happens
                          once; NULL: nowhere */
} pocketvlm_options;

typedef struct pocketvlm_info {
  int64_t vocabulary, hidden_size, kv_length, prefill_chunk;
  int64_t tile_size, tokens_per_tile; /* 0 for a model of text only */
  int32_t image_token;                /* -1 for a model of text only */
} pocketvlm_info;

/* How tokens are chosen: the portable rule (runtime/sampling.py), the same tokens on every platform. */
typedef struct pocketvlm_sampling {
  double temperature;        /* 0: greedy */
  double top_p;              /* above 0, at most 1 */
  double repetition_penalty; /* 1: none */
  int64_t top_k;             /* 0: all */
  uint64_t seed;
  int64_t max_new_tokens;  /* at least 1 */
  const int32_t* bias_ids; /* logit_bias: `biases` ids, each once, and what is added to their logits (-100 to 100) */
  const double* bias_values;
  size_t biases;
  int32_t lookup; /* other than 0: guess tokens where the last ones stood before, and check the guess in one step */
} pocketvlm_sampling;

/* Times in seconds; of the answer begun last, `load_s` of the model. */
typedef struct pocketvlm_stats {
  double load_s, encode_wait_s, prefill_s, decode_s;
  int64_t prompt_tokens;  /* in the conversation when the answer began */
  int64_t prefill_tokens; /* of those computed for it */
  int64_t generated_tokens;
  int64_t kv_tokens_left; /* room in the KV cache */
  int64_t peak_rss_bytes; /* of the process */
  int64_t drafted_tokens; /* that lookup guessed, and those of them that were right */
  int64_t held_tokens;
  pocketvlm_finish finish;
} pocketvlm_stats;

/* The library's version, "0.1.0". */
POCKETVLM_API const char* pocketvlm_version(void);

/* The line of the last failure on this thread; "" before the first. Valid until the thread's next call. */
POCKETVLM_API const char* pocketvlm_last_error(void);

/* What greedy decoding takes: temperature 0, top_p 1, no penalty, no bias, 256 tokens. */
POCKETVLM_API pocketvlm_sampling pocketvlm_default_sampling(void);

/* Opens a bundle's directory. An engine with a driver behind it, which the bundle's preference may choose, is first tried
 * in a forked child process, which it may end: call it while no other thread works with ONNX Runtime. Sets ORT_DISABLE_TELEMETRY=1 in the process's environment before ONNX Runtime is there:
 * call it for the first time while no other thread reads the environment. `options` may be NULL: 4 threads. */
POCKETVLM_API pocketvlm_status pocketvlm_open(const char* directory, const pocketvlm_options* options,
                                              pocketvlm_model** model);

/* What runs a model: "onnx", "qnn", "qnn-emulation". Valid as long as the model. */
POCKETVLM_API const char* pocketvlm_engine(const pocketvlm_model* model);

/* Engines that the bundle prefers to it, a line each with why it does not run here: "qnn: libcdsprpc.so is not in ...".
 * Valid as long as the model. */
POCKETVLM_API const char* pocketvlm_skipped(const pocketvlm_model* model);

/* Frees a model whose conversations are over; an image that is being encoded ends first, within one batch of tiles.
 * NULL is fine. */
POCKETVLM_API void pocketvlm_close(pocketvlm_model* model);

POCKETVLM_API pocketvlm_status pocketvlm_describe(const pocketvlm_model* model, pocketvlm_info* info);

/* Starts a conversation with a KV cache of its own. */
POCKETVLM_API pocketvlm_status pocketvlm_start(pocketvlm_model* model, pocketvlm_conversation** conversation);

/* Frees a conversation. NULL is fine. */
POCKETVLM_API void pocketvlm_end(pocketvlm_conversation* conversation);

/* Adds an image behind what was added before: the tokens of its layout, whose image tokens are filled in. It is cut
 * into tiles here and encoded in the background from now on. Pixels are rows of `stride` bytes, 4 bytes a pixel: red,
 * green, blue, alpha (straight; transparency lies over white); at most 16384 a side and 64 Mi in all. */
POCKETVLM_API pocketvlm_status pocketvlm_add_image(pocketvlm_conversation* conversation, const uint8_t* rgba,
                                                   int64_t width, int64_t height, int64_t stride);

/* Adds tokens of text. */
POCKETVLM_API pocketvlm_status pocketvlm_add_tokens(pocketvlm_conversation* conversation, const int32_t* ids,
                                                    size_t count);

/* Computes what was added, in chunks, and gets ready for an answer. `sampling` may be NULL: greedy. After
 * POCKETVLM_CANCELLED, or a failure, the call can be repeated: what was computed stays. A cancel before the call is
 * forgotten. */
POCKETVLM_API pocketvlm_status pocketvlm_prefill(pocketvlm_conversation* conversation,
                                                 const pocketvlm_sampling* sampling);

/* The answer's next token, which joins the conversation; POCKETVLM_END behind the last one. */
POCKETVLM_API pocketvlm_status pocketvlm_next_token(pocketvlm_conversation* conversation, int32_t* id);

/* Lets the prefill or the answer that is going on end within one chunk or token; from any thread, at once. */
POCKETVLM_API void pocketvlm_cancel(pocketvlm_conversation* conversation);

/* Forgets the tokens from number `tokens` on (0: all, and the images): to ask again, or to edit a question. */
POCKETVLM_API pocketvlm_status pocketvlm_rewind(pocketvlm_conversation* conversation, int64_t tokens);

/* How many tokens the conversation has; up to `capacity` of them in `ids` (may be NULL with 0). */
POCKETVLM_API int64_t pocketvlm_tokens(const pocketvlm_conversation* conversation, int32_t* ids, size_t capacity);

/* The logits that the next token is chosen from, float32 [vocabulary]; NULL before a prefill. Valid until the next
 * call for this conversation. */
POCKETVLM_API const float* pocketvlm_logits(const pocketvlm_conversation* conversation);

POCKETVLM_API pocketvlm_status pocketvlm_get_stats(const pocketvlm_conversation* conversation, pocketvlm_stats* stats);

#ifdef __cplusplus
}
#endif

#endif
