// manifest.json (docs/bundle-format.md): read as strictly as pocketvlm/bundle/manifest.py does, kept as far as running needs
// it.
#pragma once

#include <cmath>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "preference.h"

namespace pocketvlm {

using TokenIds = std::vector<int32_t>;
using Grid = std::pair<int64_t, int64_t>;  // tiles (across, down)

struct FileEntry {
  int64_t bytes;
  std::string sha256, sample_sha256;
};

struct Part {
  std::string file;
  std::vector<std::string> data;
};

// How the tokens of an image's tiles become one picture again (packing.h).
struct Packing {
  std::string newline;  // a file of float32 [hidden]: the token that ends each row
  std::optional<int64_t> most_tiles;
};

// A picture that goes through its tower as a whole, each of whose tiles is one token (patches.h).
struct PatchPictures {
  int64_t most_tokens, head_dim;
  std::optional<double> rope_theta;  // nothing: nothing turns
  std::optional<int64_t> window;  // tiles a side of the squares that most layers let see each other alone
  std::string table;              // a file of float32 [table_side, table_side, vision width]; "": none
  std::optional<int64_t> table_side;
  bool table_resized, table_bucketed;  // as an image is, or each patch takes an entry; else stretched
  bool table_by_axis;                  // [2, table_side, vision width]: a patch has its column's row and its row's
  std::optional<int64_t> queries;      // tokens that a resampler makes of each part of a picture
  std::optional<int64_t> deep;  // how many of the decoder's first layers add rows, which lie behind each embedding
};

struct Vision {
  int64_t tile_size;
  std::string strategy;
  std::vector<Grid> candidates;
  double alpha;
  std::string thumbnail;
  bool thumbnail_of_single_tile;
  std::optional<int64_t> longest_edge, min_pixels, max_pixels;
  std::optional<int64_t> part;  // tiles along a side of each part of a large picture
  std::string resize_filter;
  std::vector<int64_t> pad_color;  // 3; -1 stands for what is no byte
  double rescale;
  std::vector<double> mean, std;  // 3 each
  int64_t tile_batch, patches_per_tile, hidden_size, downsample_ratio, tokens_per_tile;
  std::optional<Packing> packing;
  std::optional<PatchPictures> patches;
  // Of a tile, whose tokens are a square where they are packed.
  int64_t tokens_per_side() const { return int64_t(std::sqrt(double(tokens_per_tile))); }
};

struct ImageLayout {
  TokenIds image_start, thumbnail, row_end, image_end;
  std::vector<std::vector<TokenIds>> tile;
  std::optional<TokenIds> lone, last_row_end;  // what stands there instead of tile[0][0] and of the last row_end
  TokenIds tile_end, thumbnail_end;            // behind the tokens of each tile, of the thumbnail or a lone tile
  std::optional<std::vector<TokenIds>> numbers;  // behind image_start, of each image of a conversation
};

// The static program of an NPU's parts (docs/bundle-format.md).
struct NpuProgram {
  std::string platform;
  bool compiled;
  std::vector<std::string> programs;                // the vendor's, and the graphs that name them
  std::vector<std::pair<int64_t, int64_t>> chunks;  // first layer, last layer + 1
  int64_t prefill_tokens;
  std::vector<int64_t> tile_batches;
  double mask_value;
  std::string rope;  // a file of float32 [2, length, head_dim]: cos, sin
};

// A token has a position on each of three axes (positions.h).
struct MropePositions {
  std::vector<int64_t> sections;  // pairs of a head's channels that turn by each axis
  bool interleaved;
  std::string rope;  // a file of float32 [2, KV length, pairs]: cos, sin
};

// What a layer keeps of its tokens: keys and values, with heads of the cache's size or of one of its own; nothing, where it
// reads those of an earlier layer; what enters a convolution of so many rows, float32 [1, kernel - 1 +
// length, width]; or whatever their number a matrix for each head and the last rows before a convolution.
struct LayerCache {
  enum Kind { attention, shared, convolution, state };
  Kind kind = attention;
  int64_t head_dim = 0, layer = 0;
  bool is_plain() const { return kind == attention && head_dim == 0; }
  int64_t width = 0, kernel = 0, heads = 0, key_width = 0, value_width = 0;
  std::vector<int64_t> matrix_shape() const { return {1, heads, key_width, value_width}; }
  std::vector<int64_t> rows_shape() const { return {1, kernel - 1, width}; }
};

struct Manifest {
  std::string minimum_pocketvlm, model_name, tokenizer, kv_dtype;
  std::optional<std::string> minimum_onnxruntime;
  int64_t row_width = 0;  // channels of a token for each layer that enter the decoder beside its embedding
  int64_t vocab_size, hidden_size, layers, kv_length, kv_heads, head_dim, prefill_chunk;
  std::optional<Vision> vision;
  std::optional<ImageLayout> layout;
  TokenIds stop;
  std::optional<int32_t> image_token;
  bool asks_for_executorch = false;
  bool asks_for_litert = false;
  bool has_roles = true;  // false where a chat layout lacks a role that it needs
  std::optional<bool> single_turn;  // whether its chat layout is of one question; none: it has no layout
  std::map<std::string, std::map<std::string, Part>> engines;
  std::map<std::string, int64_t> prefill_chunks;  // by engine, where there are several
  std::map<std::string, NpuProgram> programs;      // of NPUs, by engine
  std::optional<MropePositions> positions;
  std::string spans = "none";  // which tokens see what is behind them
  std::vector<LayerCache> caches;  // a layer each
  bool has_states() const {
    for (const LayerCache& one : caches)
      if (one.kind == LayerCache::state) return true;
    return false;
  }
  std::vector<PreferredEngine> preference;  // engines that may be chosen, best first; empty: any
  std::map<std::string, FileEntry> files;
  bool has_spans() const { return spans != "none"; }
  // Whether one question is answered, and no second one behind its answer.
  bool answers_once() const { return single_turn.value_or(false) || spans == "prompt"; }
  // Channels of a token as its id is looked up.
  int64_t embedding_width() const { return hidden_size + layers * row_width; }
  // And as it enters the decoder.
  int64_t entering_width() const {
    return embedding_width() + hidden_size * (vision && vision->patches ? vision->patches->deep.value_or(0) : 0);
  }
};

// Whether a bundle may name a file so: a relative path without empty, dot or dot-dot parts, at most 255 characters.
bool is_file_name(std::string_view name);

// Failure: bundle. `where` is the manifest's path, for the error.
Manifest parse_manifest(std::string_view text, const std::string& where);

}  // namespace pocketvlm
