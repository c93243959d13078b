#include "vision.h"

#include "session.h"

#include <algorithm>
#include <future>

namespace pocketvlm {

Floats normalized(const Vision& vision, const uint8_t* tiles, int64_t count) {
  Floats pixels(elements({count, 3, vision.tile_size, vision.tile_size}));
  normalize(tiles, count, vision, pixels.data());
  return pixels;
}

Floats encode_tiles(Engine& engine, const uint8_t* tiles, int64_t count, int64_t batch, bool pipelined,
                    const std::atomic<bool>& cancelled) {
  const Vision& vision = *engine.manifest().vision;
  const int64_t tile_bytes = vision.tile_size * vision.tile_size * 3;
  Floats tokens(elements({count, vision.tokens_per_tile, engine.manifest().hidden_size}));
  const int64_t tile_floats = vision.tokens_per_tile * engine.manifest().hidden_size;
  const auto embed = [&](int64_t first) {
    return std::async(pipelined ? std::launch::async : std::launch::deferred,
                      [&engine, &vision, tiles, first, count, batch, tile_bytes] {
                        const int64_t here = std::min(batch, count - first);
                        return engine.patch_embed(normalized(vision, tiles + first * tile_bytes, here), here);
                      });
  };
  std::future<Floats> upcoming = embed(0);
  for (int64_t first = 0; first < count; first += batch) {
    if (cancelled) throw Error(Failure::interrupted, "cancelled while an image was encoded");
    const Floats patches = upcoming.get();
    if (first + batch < count) upcoming = embed(first + batch);
    engine.encode(patches, std::min(batch, count - first), &tokens[size_t(first * tile_floats)]);
  }
  return tokens;
}

namespace {

// The tiles of `grid`, into `output`.
void encode_part(Engine& engine, const NativeVision& native, const uint8_t* tiles, const Grid& grid, int64_t batch,
                 const std::atomic<bool>& cancelled, float* output) {
  const Vision& vision = *engine.manifest().vision;
  const PicturePlace place = native.place(grid);
  const auto rows = native.rows(grid);
  const int64_t tile_bytes = vision.tile_size * vision.tile_size * 3, count = place.tiles;
  const int64_t tile_floats = vision.patches_per_tile * vision.hidden_size;
  Floats patches;
  patches.reserve(elements({count, vision.patches_per_tile, vision.hidden_size}));
  for (int64_t first = 0; first < count; first += batch) {
    if (cancelled) throw Error(Failure::interrupted, "cancelled while an image was encoded");
    const int64_t here = std::min(batch, count - first);
    const Floats pixels = normalized(vision, tiles + first * tile_bytes, here);
    const Floats part = rows ? engine.patch_embed_at(pixels, here, &(*rows)[size_t(first * tile_floats)])
                             : engine.patch_embed(pixels, here);
    patches.insert(patches.end(), part.begin(), part.end());
  }
  engine.encode_picture(patches, place, output);
}

}  // namespace

Floats encode_picture(Engine& engine, const NativeVision& native, const Tiles& tiles, int64_t batch,
                      const std::atomic<bool>& cancelled) {
  const int64_t side = engine.manifest().vision->tile_size, width = engine.manifest().entering_width();
  const auto queries = engine.manifest().vision->patches->queries;
  Floats tokens(elements({queries ? *queries * int64_t(tiles.seen.size()) : tiles.count, width}));
  int64_t first = 0, token = 0;
  for (const Grid& grid : tiles.seen) {
    encode_part(engine, native, &tiles.pixels[size_t(first * side * side * 3)], grid, batch, cancelled,
                &tokens[size_t(token * width)]);
    first += grid.first * grid.second, token += queries.value_or(grid.first * grid.second);
  }
  return tokens;
}

}  // namespace pocketvlm
