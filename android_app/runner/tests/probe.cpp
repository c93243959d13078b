// What the tests ask the library's readers and rules, a line of JSON each on stdin, answered by one on stdout:
// {"ok": ...} or {"refused": status, "line": ...}.
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <nlohmann/json.hpp>

#include "attempt.h"
#include "bundle.h"
#include "graph.h"
#include "images.h"
#include "json.h"
#include "layout.h"
#include "lookup.h"
#include "npu_program.h"
#include "packing.h"
#include "patches.h"
#include "plan.h"
#include "positions.h"
#include "spans.h"
#include "sampling.h"
#include "sha256.h"
#include "tiling.h"

namespace pocketvlm {
namespace {

using Json = nlohmann::json;

Manifest read_manifest(const std::string& path) {
  return parse_manifest(read_file(path, 16 << 20, Failure::bundle), path);
}

Json bundle(const Json& asked) {
  const Bundle opened = open_bundle(asked["path"], asked.value("verify", false));
  if (!asked.value("consistent", false)) return opened.manifest.files.size();
  check_minimum("pocketvlm", opened.manifest.minimum_pocketvlm, POCKETVLM_VERSION);
  if (!opened.manifest.has_roles) throw Error(Failure::bundle, "a role is missing");
  if (opened.manifest.vision) check_vision(*opened.manifest.vision, *opened.manifest.layout);
  return opened.manifest.files.size();
}

// Of a list of engines as a manifest has it.
Json chosen(const Json& asked) {
  const json::Value engines = json::parse(asked["engines"].dump());
  const Json& given = asked["machine"];
  MachineFacts machine;
  machine.engines = given["engines"].get<std::set<std::string>>(), machine.abi = given["abi"];
  if (!given["chip"].is_null()) machine.chip = given["chip"].get<std::string>();
  for (const auto& [name, version] : given["versions"].items())
    machine.versions[name] = version.is_null() ? std::nullopt : std::optional<std::string>(version);
  machine.files = given["files"].get<std::set<std::string>>();
  machine.failed = given["failed"].get<std::map<std::string, std::string>>();
  const EngineChoice choice = choose(read_preference(json::Reader(engines)), machine);
  return {{"chosen", choice.engine ? Json(*choice.engine) : Json()}, {"skipped", choice.skipped}};
}

Json npu_program(const Json& asked) {
  const std::string what = asked["of"];
  const int64_t position = asked.value("position", 0), length = asked.value("length", 0);
  if (what == "steps") return npu_steps(position, asked["count"], asked["prefill"], length);
  if (what == "batches") return npu_batches(asked["tiles"], asked["sizes"].get<std::vector<int64_t>>());
  if (what == "mask") return npu_mask(position, asked["tokens"], length, asked["hidden"]);
  auto rows = asked["rows"].get<std::vector<int8_t>>();
  take_back(rows.data(), asked["heads"], length, asked["size"], asked["count"]);
  return rows;
}

// Work that ends in a way of its own, in another process, and what is kept of it.
Json attempted(const Json& asked) {
  const std::string how = asked["how"];
  Verdict verdict(asked.value("folder", ""), asked.value("key", ""));
  if (verdict.state() == Verdict::unknown) {
    verdict.begin();
    if (how == "leave") return "left";  // as a machine that goes down
    verdict.end(attempt(
        [&how] {
          if (how == "crash") std::raise(SIGSEGV);
          if (how == "abort") std::abort();
          if (how == "exit") _exit(7);
          if (how == "error") throw Error(Failure::other, "no such\nkernel");
          if (how == "print") std::cout << "noise" << std::endl;
          while (how == "hang") pause();
        },
        asked["limit"]));
  }
  return {{"works", verdict.state() == Verdict::works}, {"reason", verdict.reason()}};
}

Json graph(const Json& asked) {
  check_graph(read_file(asked["path"], 256 << 20, Failure::bundle), asked["sizes"], asked["data"]);
  return true;
}

Json plan(const Json& asked) {
  const Plan parsed = parse_plan(read_file(asked["path"], kMaxPlanBytes, Failure::usage));
  if (asked.contains("manifest")) check_fits(parsed, read_manifest(asked["manifest"]));
  return parsed.cases.size();
}

Vision tiling(const Json& asked) {
  Vision vision = {};
  vision.tile_size = asked["tile_size"], vision.strategy = asked["strategy"], vision.alpha = asked["alpha"];
  vision.candidates = asked["candidates"].get<std::vector<Grid>>();
  vision.thumbnail = asked["thumbnail"], vision.thumbnail_of_single_tile = asked["thumbnail_of_single_tile"];
  if (const Json longest = asked.value("longest_edge", Json()); !longest.is_null()) vision.longest_edge = longest;
  if (const Json least = asked.value("min_pixels", Json()); !least.is_null()) vision.min_pixels = least;
  if (const Json most = asked.value("max_pixels", Json()); !most.is_null()) vision.max_pixels = most;
  if (const Json part = asked.value("part", Json()); !part.is_null()) vision.part = part;
  if (const auto problem = tiling_problem(vision)) throw Error(Failure::bundle, *problem);
  return vision;
}

Json picture_plan(const Json& asked) {
  const Vision vision = tiling(asked);
  const auto made = plan_of(asked["width"], asked["height"], vision);
  Json said = {{"grid", made.grid},
               {"resizes", made.resizes},
               {"place", made.place},
               {"thumbnail_index", made.thumbnail ? Json(*made.thumbnail) : Json()},
               {"thumbnail_of", made.thumbnail_of}};
  if (made.square > 0) said["square"] = made.square;
  if (is_in_parts(vision)) said["part"] = made.part, said["thumbnail_part"] = made.thumbnail_part;
  return said;
}

// Token ids of an image, with -1 for each of a tile's own.
Json image_tokens(const Json& asked) {
  ImageLayout layout;
  const Json& given = asked["layout"];
  layout.image_start = given["image_start"].get<TokenIds>(), layout.thumbnail = given["thumbnail"].get<TokenIds>();
  layout.row_end = given["row_end"].get<TokenIds>(), layout.image_end = given["image_end"].get<TokenIds>();
  layout.tile = given["tile"].get<std::vector<std::vector<TokenIds>>>();
  if (given.contains("lone")) layout.lone = given["lone"].get<TokenIds>();
  if (given.contains("last_row_end")) layout.last_row_end = given["last_row_end"].get<TokenIds>();
  if (given.contains("tile_end")) layout.tile_end = given["tile_end"].get<TokenIds>();
  if (given.contains("thumbnail_end")) layout.thumbnail_end = given["thumbnail_end"].get<TokenIds>();
  if (given.contains("numbers")) layout.numbers = given["numbers"].get<std::vector<TokenIds>>();
  std::optional<int64_t> thumbnail;
  if (!asked["thumbnail_index"].is_null()) thumbnail = asked["thumbnail_index"].get<int64_t>();
  TokenIds ids;
  std::optional<int64_t> packed;
  if (const Json given = asked.value("packed", Json()); !given.is_null()) packed = given.get<int64_t>();
  const auto grid = asked["grid"].get<Grid>();
  const Json& given_tokens = asked["tokens_per_tile"];
  const auto tokens = given_tokens.is_array()
                          ? given_tokens.get<std::vector<int64_t>>()
                          : std::vector<int64_t>(size_t(grid.first * grid.second + 1), given_tokens.get<int64_t>());
  for (const auto& [around, rows] : laid_out(layout, grid, thumbnail, tokens, packed, asked.value("number", size_t{0}))) {
    ids.insert(ids.end(), around.begin(), around.end());
    ids.insert(ids.end(), size_t(rows), -1);
  }
  return ids;
}

Packed packing_of(const Json& asked) {
  std::optional<int64_t> most;
  if (const Json given = asked["most_tiles"]; !given.is_null()) most = given.get<int64_t>();
  return packed(asked["size"].get<Size>(), asked["grid"].get<Grid>(), asked["side"], most);
}

Json packing(const Json& asked) {
  const Packed plan = packing_of(asked);
  return {{"corner", plan.corner}, {"kept", plan.kept}, {"shown", plan.size}, {"tokens", plan.tokens()}};
}

Json pack_tokens(const Json& asked) {
  return pack(asked["given"].get<std::vector<float>>(), packing_of(asked), asked["newline"].get<std::vector<float>>());
}

// Of a picture of native resolution: what its tower takes beside its tiles.
Json picture_place(const Json& asked) {
  const std::string what = asked["of"];
  const auto grid = asked["grid"].get<Grid>();
  const int64_t ratio = asked.value("ratio", int64_t{1});
  if (what == "rope") {
    const Json& theta = asked["theta"];
    return axial_rope(grid, ratio, asked["head_dim"],
                      theta.is_null() ? std::nullopt : std::optional<double>(theta.get<double>()));
  }
  if (what == "sincos") return sincos_rows(grid, asked["width"]);
  if (what == "table" || what == "resized table" || what == "bucketed table") {
    const auto laid_over = what == "table" ? interpolated : what == "resized table" ? antialiased : bucketed;
    return laid_over(grid, ratio, asked["table"].get<std::vector<float>>(), asked["side"]);
  }
  const Windows cut = windows_of(grid, asked["side"], ratio);
  return {{"count", cut.count}, {"tiles", cut.tiles}, {"mask", cut.mask}, {"positions", cut.positions}};
}

Json positions(const Json& asked) {
  return positions_of(asked["pictures"].get<std::vector<int32_t>>(), asked["grids"].get<std::vector<Grid>>());
}

// What the tokens of a prompt see, and where its chunks end.
Json spans(const Json& asked) {
  const auto seen = last_seen_of(asked["pictures"].get<std::vector<int32_t>>(), asked["spans"]);
  std::vector<int64_t> ends;
  for (int64_t first = 0; first < int64_t(seen.size()); first = ends.back())
    ends.push_back(end_of_chunk(seen, first, asked["most"]));
  return {{"last_seen", seen}, {"ends", ends}};
}

Json tiles(const Json& asked) {
  const int64_t width = asked["width"], height = asked["height"];
  const std::string rgba = read_file(asked["path"], int64_t{1} << 30, Failure::usage);
  if (int64_t(rgba.size()) != width * height * 4) throw Error(Failure::usage, "the file has another size");
  Vision vision = tiling(asked);
  vision.resize_filter = asked["resize_filter"];
  vision.pad_color = asked["pad_color"].get<std::vector<int64_t>>(), vision.rescale = asked["rescale"];
  vision.mean = asked["mean"].get<std::vector<double>>(), vision.std = asked["std"].get<std::vector<double>>();
  const Tiles cut = cut_tiles(flatten(reinterpret_cast<const uint8_t*>(rgba.data()), width, height, width * 4), vision);
  std::vector<float> values(cut.pixels.size());
  normalize(cut.pixels.data(), cut.count, vision, values.data());
  Sha256 pixels, normalized;
  pixels.update(cut.pixels.data(), cut.pixels.size());
  normalized.update(values.data(), values.size() * sizeof(float));
  Json said = {{"grid", cut.grid},
               {"tiles", cut.count},
               {"thumbnail_index", cut.thumbnail ? Json(*cut.thumbnail) : Json()},
               {"sha256", pixels.hexadecimal()},
               {"normalized_sha256", normalized.hexadecimal()}};
  if (!cut.seen.empty()) said["parts"] = cut.seen;
  return said;
}

Sampling sampling_of(const Json& asked) {
  Sampling sampling;
  sampling.temperature = asked.value("temperature", 0.0), sampling.top_k = asked.value("top_k", 0);
  sampling.top_p = asked.value("top_p", 1.0), sampling.seed = asked.value("seed", uint64_t{0});
  sampling.repetition_penalty = asked.value("repetition_penalty", 1.0);
  for (const Json& pair : asked.value("logit_bias", Json::array())) sampling.logit_bias[pair[0]] = pair[1];
  return sampling;
}

Json sample(const Json& asked) {
  const auto tables = asked["logits"].get<std::vector<std::vector<float>>>();
  Sampler sampler(sampling_of(asked), asked.value("seen", std::vector<int64_t>{}), int64_t(tables[0].size()));
  std::vector<int32_t> tokens;
  for (size_t i = 0; i < asked["count"].get<size_t>(); i++)
    tokens.push_back(sampler.choose(tables[i % tables.size()].data()));
  return tokens;
}

Json adjust(const Json& asked) {
  const auto logits = asked["logits"].get<std::vector<float>>();
  Sampler sampler(sampling_of(asked), asked.value("seen", std::vector<int64_t>{}), int64_t(logits.size()));
  const float* adjusted = sampler.adjusted(logits.data());
  return std::vector<float>(adjusted, adjusted + logits.size());
}

Json numbers(const Json& asked) {
  SplitMix64 random(asked["seed"].get<uint64_t>()), same(asked["seed"].get<uint64_t>());
  Json outputs = Json::array();
  for (size_t i = 0; i < asked["count"].get<size_t>(); i++)
    outputs.push_back({std::to_string(random.next()), same.next_double()});
  return outputs;
}

Json drafts(const Json& asked) {
  Lookup lookup;
  for (const int64_t token : asked["tokens"].get<std::vector<int64_t>>()) lookup.see(token);
  return lookup.draft(asked["most"]);
}

// How long drafts may be, before each step and behind the last; whether each holds to so many tokens.
Json paces(const Json& asked) {
  Pace pace;
  Json most = Json::array({pace.most()});
  for (const Json& step : asked["steps"]) {
    const int64_t drafted = pace.most();
    pace.took(step[0], drafted, std::min(drafted, step[1].get<int64_t>()));
    most.push_back(pace.most());
  }
  return most;
}

Json answer(const Json& asked) {
  const std::string what = asked["ask"];
  if (what == "manifest") return read_manifest(asked["path"]).files.size();
  if (what == "bundle") return bundle(asked);
  if (what == "choose") return chosen(asked);
  if (what == "drafts") return drafts(asked);
  if (what == "paces") return paces(asked);
  if (what == "npu") return npu_program(asked);
  if (what == "attempt") return attempted(asked);
  if (what == "graph") return graph(asked);
  if (what == "plan") return plan(asked);
  if (what == "picture_plan") return picture_plan(asked);
  if (what == "image_tokens") return image_tokens(asked);
  if (what == "packing") return packing(asked);
  if (what == "picture_place") return picture_place(asked);
  if (what == "positions") return positions(asked);
  if (what == "spans") return spans(asked);
  if (what == "axes") return axis_of_pairs(asked["sections"].get<std::vector<int64_t>>(), asked["interleaved"]);
  if (what == "most_windows") return most_windows(asked["tokens"], asked["side"]);
  if (what == "pack") return pack_tokens(asked);
  if (what == "tiles") return tiles(asked);
  if (what == "sample") return sample(asked);
  if (what == "adjust") return adjust(asked);
  if (what == "numbers") return numbers(asked);
  if (what == "sha256") return file_sha256(asked["path"]);
  if (what == "sample_sha256") return file_sample_sha256(asked["path"]);
  throw Error(Failure::usage, "nobody answers that");
}

}  // namespace
}  // namespace pocketvlm

int main() {
  using pocketvlm::Json;
  for (std::string line; std::getline(std::cin, line);) {
    Json said;
    try {
      said["ok"] = pocketvlm::answer(Json::parse(line));
    } catch (const pocketvlm::Error& error) {
      said = {{"refused", int(error.failure())}, {"line", error.what()}};
    }
    std::cout << said.dump(-1, ' ', true) << std::endl;
  }
  return 0;
}
