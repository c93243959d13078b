#include "plan.h"

#include <algorithm>
#include <cfloat>
#include <map>

#include "error.h"
#include "images.h"
#include "json.h"

namespace pocketvlm {
namespace {

using json::Members;
using json::Reader;

constexpr size_t kMaxTokens = 1 << 20;  // no KV cache is longer

const std::map<std::string, CaseKind> kKinds = {
    {"load cold", CaseKind::load_cold},
    {"load warm", CaseKind::load_warm},
    {"patch embedding", CaseKind::patch_embedding},
    {"vision encoder", CaseKind::vision_encoder},
    {"image", CaseKind::image},
    {"first token", CaseKind::first_token},
    {"prefill", CaseKind::prefill},
    {"decode", CaseKind::decode},
    {"prefill and decode", CaseKind::both},
};

std::string plain_name(const Reader& value) {
  if (!is_file_name(value.text()) || value.text().find('/') != std::string::npos)
    value.refuse("it is not the plain name of a file");
  return value.text();
}

std::string name(const Reader& value) {
  if (value.text().empty() || value.text().size() > 200) value.refuse("it must have from 1 to 200 bytes");
  return value.text();
}

TokenIds token_ids(const Reader& value, size_t least) {
  return value.list([](const Reader& id) { return int32_t(id.integer(0, INT32_MAX)); }, least, kMaxTokens);
}

std::optional<int64_t> number_or_null(const Reader& value, int64_t most) {
  return value.is_null() ? std::nullopt : std::optional<int64_t>(value.integer(1, most));
}

PlannedTiles tiles(const Reader& value) {
  const Members of = value.members({"file", "count", "name"});
  return {plain_name(of["file"]), name(of["name"]), of["count"].integer(1, 4096)};
}

PlannedAnswer answer(const Reader& value) {
  const Members of = value.members({"token_ids", "config", "expected", "logits"});
  const Reader given = of["config"], expected = of["expected"];
  for (const auto& [key, value] : given.object())
    if (const std::string why = refusal_of_form(key); !why.empty()) Reader(value, given, key).refuse(why);
  const Members config = given.members({"max_new_tokens", "temperature", "top_k", "top_p", "seed",
                                        "repetition_penalty", "logit_bias", "lookup"});
  PlannedAnswer result;
  result.token_ids = token_ids(of["token_ids"], 1);
  result.max_new_tokens = config["max_new_tokens"].integer(1, int64_t(kMaxTokens));
  result.logits = of["logits"].integer(0, 4096);
  if (!expected.is_null()) result.expected = token_ids(expected, 0);
  Sampling& sampling = result.sampling;
  sampling.temperature = config["temperature"].number(0, DBL_MAX);
  sampling.top_k = config["top_k"].integer(0, INT64_MAX);
  sampling.top_p = config["top_p"].number(DBL_TRUE_MIN, 1);
  sampling.seed = config["seed"].unsigned_integer();
  sampling.repetition_penalty = config["repetition_penalty"].number(DBL_TRUE_MIN, DBL_MAX);
  sampling.lookup = config["lookup"].boolean();
  config["logit_bias"].list(
      [&](const Reader& pair) {
        const json::Array& both = pair.array(2, 2);
        const auto id = int32_t(Reader(both[0], pair, {}, 0).integer(0, INT32_MAX));
        const double bias = Reader(both[1], pair, {}, 1).number(-100, 100);
        if (!sampling.logit_bias.emplace(id, bias).second) pair.refuse("its token is there more than once");
        return true;
      },
      0, 1024);
  return result;
}

// Which keys a case of a kind has beside name, phase and kind.
Members members_of(const Reader& value, CaseKind kind) {
  switch (kind) {
    case CaseKind::image:
      return value.members({"name", "phase", "kind", "batch", "pipelined"});
    case CaseKind::first_token:
      return value.members({"name", "phase", "kind", "token_ids"});
    case CaseKind::prefill:
      return value.members({"name", "phase", "kind", "token_ids", "chunk"});
    case CaseKind::decode:
      return value.members({"name", "phase", "kind", "token_ids", "depth_token_ids"});
    case CaseKind::both:
      return value.members({"name", "phase", "kind", "token_ids", "prompt"});
    default:
      return value.members({"name", "phase", "kind"});
  }
}

Case one_case(const Reader& value) {
  const Reader kind = Members(value, value.object())["kind"];
  const auto known = kKinds.find(kind.text());
  if (known == kKinds.end()) kind.refuse("there is no such kind");
  const Members of = members_of(value, known->second);
  Case result;
  result.kind = known->second;
  result.name = name(of["name"]);
  result.phase = of["phase"].choice({"load", "preprocess", "patch embedding", "vision encoder", "projector", "image",
                                     "first token", "prefill", "decode", "prefill and decode"});
  if (result.kind == CaseKind::image) {
    result.batch = number_or_null(of["batch"], 64);
    result.pipelined = of["pipelined"].boolean();
  }
  if (result.kind >= CaseKind::first_token) result.token_ids = token_ids(of["token_ids"], 1);
  if (result.kind == CaseKind::prefill) result.chunk = number_or_null(of["chunk"], 1 << 16);
  if (result.kind == CaseKind::decode) result.depth_token_ids = token_ids(of["depth_token_ids"], 0);
  if (result.kind == CaseKind::both) result.prompt = of["prompt"].integer(1, int64_t(result.token_ids.size()));
  return result;
}

Plan read_plan(const Reader& root) {
  const Members of = root.members(
      {"schema", "threads", "cpus", "warmups", "repeats", "time_limit_s", "stop_file", "tiles", "answer", "cases"});
  of["schema"].choice({"pocketvlm-device-plan/1"});
  const Reader stop = of["stop_file"], given_tiles = of["tiles"], given_answer = of["answer"];
  Plan plan;
  plan.threads = int(of["threads"].integer(1, 64));
  plan.cpus = of["cpus"].list([](const Reader& cpu) { return int(cpu.integer(0, 1023)); }, 0, 1024);
  plan.warmups = of["warmups"].integer(0, 100);
  plan.repeats = of["repeats"].integer(1, 1000);
  plan.time_limit_s = of["time_limit_s"].number(1e-9, 1e9);
  if (!stop.is_null()) plan.stop_file = plain_name(stop);
  if (!given_tiles.is_null()) plan.tiles = tiles(given_tiles);
  if (!given_answer.is_null()) plan.answer = answer(given_answer);
  plan.cases = of["cases"].list(one_case, 0, 10000);
  return plan;
}

[[noreturn]] void misfit(const std::string& what) {
  throw Error(Failure::misfit, "the plan does not fit the bundle: " + what);
}

// Tokens of text, or (in an answer) an image's placeholder as well.
void check_tokens(const std::string& what, const TokenIds& ids, const Manifest& manifest,
                  std::optional<int32_t> image) {
  for (const int32_t id : ids)
    if (id >= manifest.vocab_size && id != image)
      misfit(what + " has token " + std::to_string(id) + ", the vocabulary has " + std::to_string(manifest.vocab_size));
}

void check_length(const std::string& what, int64_t tokens, const Manifest& manifest) {
  if (tokens > manifest.kv_length)
    misfit(what + " takes " + std::to_string(tokens) + " tokens, the KV cache holds " +
           std::to_string(manifest.kv_length));
}

}  // namespace

std::string refusal_of_form(std::string_view name) {
  for (const std::string_view form : {"constraint", "--json-schema", "json_schema", "--regex", "regex", "--choice",
                                      "choices", "--grammar", "grammar"})
    if (name == form)
      return "the native runner's answers have no form; those of pocketvlm run, eval and serve have "
             "(docs/conversations.md)";
  return {};
}

Plan parse_plan(std::string_view text) {
  try {
    const json::Value root = json::parse(text);
    return read_plan(Reader(root));
  } catch (const json::Refused& refused) {
    const std::string key = refused.where.empty() ? "" : " at " + one_line(refused.where, 120);
    throw Error(Failure::usage, "the plan is not valid" + key + ": " + one_line(refused.why, 160));
  }
}

void check_fits(const Plan& plan, const Manifest& manifest) {
  int64_t image_tokens = 0;
  if (plan.tiles) {
    if (!manifest.vision) misfit("it has tiles, the model takes text only");
    if (manifest.vision->patches) misfit("it has tiles, and patches as input are not yet measured");
    const int64_t tile = manifest.vision->tile_size;
    if (plan.tiles->count * tile * tile > 4 * kMaxPixels) misfit("it has more than 256 Mi pixels of tiles");
    if (__builtin_mul_overflow(plan.tiles->count, manifest.vision->tokens_per_tile, &image_tokens))
      misfit("its tiles have too many tokens");
  }
  if (plan.answer) {
    const TokenIds& ids = plan.answer->token_ids;
    check_tokens("the answer", ids, manifest, manifest.image_token);
    check_length("the answer's prompt", int64_t(ids.size()), manifest);
    const int64_t wanted = manifest.image_token ? std::count(ids.begin(), ids.end(), *manifest.image_token) : 0;
    if (wanted != image_tokens)
      misfit("the answer's prompt has " + std::to_string(wanted) + " image placeholders, the tiles have " +
             std::to_string(image_tokens) + " tokens");
    for (const auto& one : plan.answer->sampling.logit_bias)
      check_tokens("logit_bias", {one.first}, manifest, std::nullopt);
  }
  for (const Case& one : plan.cases) {
    const std::string what = "case '" + one_line(one.name, 80) + "'";
    const bool sees = one.kind >= CaseKind::patch_embedding && one.kind <= CaseKind::first_token;
    if (sees && !plan.tiles) misfit(what + " needs tiles");
    check_tokens(what, one.token_ids, manifest, std::nullopt);
    check_tokens(what, one.depth_token_ids, manifest, std::nullopt);
    const int64_t tokens = int64_t(one.token_ids.size()) + int64_t(one.depth_token_ids.size());
    const int64_t behind = one.kind == CaseKind::first_token ? image_tokens : 0;
    check_length(what, behind > manifest.kv_length ? behind : behind + tokens, manifest);
  }
}

}  // namespace pocketvlm
