/* A conversation in C, told line by line on stdin: conversation BUNDLE LIBRARY. It is written in C so that the header
 * is known to be C. Lines:
 *
 *   image FILE WIDTH HEIGHT      raw RGBA, added from memory
 *   tokens ID ID ...
 *   ask COUNT                    greedy, at most so many tokens: "answer ID ID ... finish REASON"
 *   ask-and-cancel COUNT         the same, while another thread cancels after the first token
 *   ask-with-drafts COUNT        the same, with guesses: "answer ID ID ... finish REASON drafted COUNT held COUNT"
 *   rewind TOKENS | history | stats | logits (the first four) */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pocketvlm.h"

#define MOST 4096

static int check(pocketvlm_status status) {
  if (status != POCKETVLM_OK) printf("failed %d %s\n", (int)status, pocketvlm_last_error());
  return status == POCKETVLM_OK;
}

static void add_image(pocketvlm_conversation* chat, const char* arguments) {
  char path[MOST];
  long width, height;
  if (sscanf(arguments, "%4095s %ld %ld", path, &width, &height) != 3) exit(2);
  const size_t size = (size_t)width * (size_t)height * 4;
  uint8_t* pixels = malloc(size);
  FILE* file = fopen(path, "rb");
  if (pixels == NULL || file == NULL || fread(pixels, 1, size, file) != size) exit(2);
  fclose(file);
  if (check(pocketvlm_add_image(chat, pixels, width, height, width * 4))) printf("added\n");
  free(pixels); /* nothing of it is needed any more */
}

static void add_tokens(pocketvlm_conversation* chat, char* arguments) {
  int32_t ids[MOST];
  size_t count = 0;
  for (char* word = strtok(arguments, " \n"); word != NULL && count < MOST; word = strtok(NULL, " \n"))
    ids[count++] = (int32_t)atol(word);
  if (check(pocketvlm_add_tokens(chat, ids, count))) printf("added\n");
}

static void* cancel(void* chat) {
  pocketvlm_cancel(chat);
  return NULL;
}

static void ask(pocketvlm_conversation* chat, long count, int cancelled, int lookup) {
  pocketvlm_sampling sampling = pocketvlm_default_sampling();
  pocketvlm_stats stats;
  pocketvlm_status status;
  int32_t id;
  sampling.max_new_tokens = count;
  sampling.lookup = lookup;
  if (!check(pocketvlm_prefill(chat, &sampling))) return;
  printf("answer");
  while ((status = pocketvlm_next_token(chat, &id)) == POCKETVLM_OK) {
    printf(" %d", (int)id);
    if (cancelled) {
      pthread_t thread;
      if (pthread_create(&thread, NULL, cancel, chat) != 0) exit(2);
      pthread_join(thread, NULL);
    }
  }
  if (status != POCKETVLM_END || !check(pocketvlm_get_stats(chat, &stats))) exit(2);
  printf(" finish %d", (int)stats.finish);
  if (lookup) printf(" drafted %ld held %ld", (long)stats.drafted_tokens, (long)stats.held_tokens);
  printf("\n");
}

static void tell(pocketvlm_conversation* chat, const char* what) {
  if (strcmp(what, "history") == 0) {
    int32_t ids[MOST];
    const int64_t count = pocketvlm_tokens(chat, ids, MOST);
    printf("history");
    for (int64_t i = 0; i < count && i < MOST; i++) printf(" %d", (int)ids[i]);
    printf("\n");
  } else if (strcmp(what, "stats") == 0) {
    pocketvlm_stats stats;
    if (!check(pocketvlm_get_stats(chat, &stats))) return;
    printf("stats prompt %ld prefill %ld generated %ld left %ld\n", (long)stats.prompt_tokens,
           (long)stats.prefill_tokens, (long)stats.generated_tokens, (long)stats.kv_tokens_left);
  } else {
    const float* logits = pocketvlm_logits(chat);
    if (logits == NULL) printf("logits none\n");
    else printf("logits %.9g %.9g %.9g %.9g\n", logits[0], logits[1], logits[2], logits[3]);
  }
}

int main(int argc, char** argv) {
  if (argc != 3 && argc != 4) return 2;
  pocketvlm_options options = {argv[2], 1, 0, 0, argc == 4 ? argv[3] : NULL, NULL};
  pocketvlm_model* model;
  pocketvlm_conversation* chat;
  pocketvlm_info info;
  const pocketvlm_status status = pocketvlm_open(argv[1], &options, &model);
  if (!check(status)) return (int)status;
  if (!check(pocketvlm_describe(model, &info)) || !check(pocketvlm_start(model, &chat))) return 1;
  printf("version %s vocabulary %ld image %d\n", pocketvlm_version(), (long)info.vocabulary, (int)info.image_token);
  static char line[1 << 20];
  while (fgets(line, sizeof line, stdin) != NULL) {
    line[strcspn(line, "\n")] = '\0';
    char* arguments = strchr(line, ' ');
    if (arguments != NULL) *arguments++ = '\0';
    if (strcmp(line, "image") == 0) add_image(chat, arguments);
    else if (strcmp(line, "tokens") == 0) add_tokens(chat, arguments);
    else if (strcmp(line, "ask") == 0) ask(chat, atol(arguments), 0, 0);
    else if (strcmp(line, "ask-with-drafts") == 0) ask(chat, atol(arguments), 0, 1);
    else if (strcmp(line, "ask-and-cancel") == 0) ask(chat, atol(arguments), 1, 0);
    else if (strcmp(line, "rewind") == 0 && check(pocketvlm_rewind(chat, atol(arguments)))) printf("rewound\n");
    else if (strcmp(line, "rewind") != 0) tell(chat, line);
    fflush(stdout);
  }
  pocketvlm_end(chat);
  pocketvlm_close(model);
  return 0;
}
