#include "cases.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <functional>

#include "session.h"
#include "vision.h"

namespace pocketvlm {
namespace {

using Ids = std::vector<int64_t>;

Ids widened(const TokenIds& ids) { return Ids(ids.begin(), ids.end()); }

// Reads the bundle's files once, or asks the system to drop them from its page cache.
void prepare_files(const Bundle& bundle, bool cold) {
  std::vector<std::string> paths = {bundle.directory + "/manifest.json"};
  for (const auto& file : bundle.manifest.files) paths.push_back(bundle.path(file.first));
  std::vector<char> block(1 << 20);
  for (const std::string& path : paths) {
    const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (descriptor < 0) continue;
    if (cold) {
      fsync(descriptor);
      posix_fadvise(descriptor, 0, 0, POSIX_FADV_DONTNEED);
    } else {
      while (read(descriptor, block.data(), block.size()) > 0) {
      }
    }
    close(descriptor);
  }
}

// Runs tokens from the cache's position on, in chunks; the logits of the last one.
const float* run_chunks(Workbench& bench, const float* encoded, int64_t rows, const Ids& ids, int64_t chunk) {
  Engine& engine = bench.opened();
  const int64_t width = engine.manifest().entering_width(), total = rows + int64_t(ids.size());
  const float* logits = nullptr;
  Floats embeddings(elements({std::min(chunk, total), width}));
  for (int64_t first = 0; first < total; first += chunk) {
    bench.watch.check();
    const int64_t count = std::min(chunk, total - first), images = std::clamp<int64_t>(rows - first, 0, count);
    std::copy_n(encoded + std::min(first, rows) * width, images * width, embeddings.begin());
    if (images < count)
      engine.enter(&ids[size_t(first + images - rows)], count - images, &embeddings[size_t(images * width)]);
    logits = engine.step(embeddings.data(), count, *bench.cache);
  }
  return logits;
}

void prefill(Workbench& bench, const Ids& ids, int64_t chunk) {
  bench.cache->rewind(0);
  run_chunks(bench, nullptr, 0, ids, chunk);
  bench.cache->keep();
}

// Runs tokens one by one behind the first `depth` of the cache: embedding included, sampling not.
void generate(Workbench& bench, const int64_t* ids, size_t count, int64_t depth) {
  Engine& engine = bench.opened();
  Floats embedding(size_t(engine.manifest().entering_width()));
  bench.cache->rewind(depth);
  for (size_t i = 0; i < count; i++) {
    bench.watch.check();
    engine.enter(&ids[i], 1, embedding.data());
    engine.step(embedding.data(), 1, *bench.cache);
  }
}

std::vector<double> repeat(const Workbench& bench, int64_t warmups, const std::function<void()>& run) {
  std::vector<double> seconds;
  for (int64_t i = 0; i < warmups + bench.plan.repeats; i++) {
    bench.watch.check();
    const double start = now();
    run();
    if (i >= warmups) seconds.push_back(now() - start);
  }
  return seconds;
}

// Loads have no warm-up, as on the host: what they find in the page cache is prepared before each.
std::vector<double> time_loads(Workbench& bench, bool cold) {
  bench.close();
  std::vector<double> seconds;
  for (int64_t i = 0; i < bench.plan.repeats; i++) {
    bench.watch.check();
    prepare_files(bench.bundle, cold);
    const double start = now();
    const auto engine = open_engine(bench.engine_name, bench.bundle, bench.library, bench.plan.threads);
    seconds.push_back(now() - start);
  }
  return seconds;
}

// Patch embedding or encoder alone, in the bundle's batches, with their input ready.
std::vector<double> time_vision(Workbench& bench, bool encoder) {
  Engine& engine = bench.opened();
  const Vision& vision = *bench.bundle.manifest.vision;
  const int64_t count = bench.plan.tiles->count, tile_bytes = vision.tile_size * vision.tile_size * 3;
  std::vector<std::pair<Floats, int64_t>> inputs;
  Floats output(elements({vision.tile_batch, vision.tokens_per_tile, bench.bundle.manifest.hidden_size}));
  for (int64_t first = 0; first < count; first += vision.tile_batch) {
    const int64_t here = std::min(vision.tile_batch, count - first);
    Floats pixels = normalized(vision, &bench.tiles[size_t(first * tile_bytes)], here);
    inputs.emplace_back(encoder ? engine.patch_embed(pixels, here) : std::move(pixels), here);
  }
  return repeat(bench, bench.plan.warmups, [&] {
    for (const auto& [input, here] : inputs) {
      bench.watch.check();
      if (encoder) engine.encode(input, here, output.data());
      else engine.patch_embed(input, here);
    }
  });
}

Floats encode(Workbench& bench, int64_t batch, bool pipelined) {
  return encode_tiles(bench.opened(), bench.tiles.data(), bench.plan.tiles->count, batch, pipelined,
                      bench.watch.stop());
}

}  // namespace

Engine& Workbench::opened() {
  if (!engine) {
    engine = open_engine(engine_name, bundle, library, plan.threads);
    cache = engine->new_cache();
  }
  return *engine;
}

void Workbench::close() {
  cache.reset();
  engine.reset();
}

Timed run_case(const Case& one, Workbench& bench) {
  const Manifest& manifest = bench.bundle.manifest;
  const int64_t chunk = one.chunk.value_or(manifest.prefill_chunk), warmups = bench.plan.warmups;
  const int64_t batch = one.batch.value_or(manifest.vision ? manifest.vision->tile_batch : 1);
  const int64_t image_tokens = bench.plan.tiles ? bench.plan.tiles->count * manifest.vision->tokens_per_tile : 0;
  const Ids ids = widened(one.token_ids), depth = widened(one.depth_token_ids);
  const auto tokens = int64_t(ids.size());
  if (one.kind > CaseKind::load_warm) bench.opened();
  switch (one.kind) {
    case CaseKind::load_cold:
      return {time_loads(bench, true), 0};
    case CaseKind::load_warm:
      return {time_loads(bench, false), 0};
    case CaseKind::patch_embedding:
      return {time_vision(bench, false), image_tokens};
    case CaseKind::vision_encoder:
      return {time_vision(bench, true), image_tokens};
    case CaseKind::image:
      return {repeat(bench, warmups, [&] { encode(bench, batch, one.pipelined); }), image_tokens};
    case CaseKind::first_token:
      return {repeat(bench, warmups,
                     [&] {
                       const Floats encoded = encode(bench, batch, true);
                       bench.cache->rewind(0);
                       argmax(run_chunks(bench, encoded.data(), image_tokens, ids, chunk), size_t(manifest.vocab_size));
                     }),
              image_tokens + tokens};
    case CaseKind::prefill:
      return {repeat(bench, warmups, [&] { prefill(bench, ids, chunk); }), tokens};
    case CaseKind::decode:
      prefill(bench, depth, chunk);
      return {repeat(bench, warmups, [&] { generate(bench, ids.data(), ids.size(), int64_t(depth.size())); }), tokens};
    case CaseKind::both:
      break;
  }
  const Ids prompt(ids.begin(), ids.begin() + one.prompt);
  return {repeat(bench, warmups,
                 [&] {
                   prefill(bench, prompt, chunk);
                   generate(bench, &ids[prompt.size() - 1] + 1, ids.size() - prompt.size(), one.prompt);
                 }),
          tokens};
}

}  // namespace pocketvlm
