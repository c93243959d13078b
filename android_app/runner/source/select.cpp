#include "select.h"

#include <sys/stat.h>
#include <unistd.h>

#ifdef __ANDROID__
#include <sys/system_properties.h>
#endif

#include <algorithm>
#include <cstdio>

#include "attempt.h"

namespace pocketvlm {
namespace {

#if defined(__aarch64__)
constexpr const char* kAbi = "arm64-v8a";
#elif defined(__x86_64__)
constexpr const char* kAbi = "x86_64";
#elif defined(__arm__)
constexpr const char* kAbi = "armeabi-v7a";
#else
constexpr const char* kAbi = "x86";
#endif

// A property of Android's; "" elsewhere.
std::string property(const char* name) {
#ifdef __ANDROID__
  char value[PROP_VALUE_MAX] = {};
  __system_property_get(name, value);
  return one_line(value, 100);
#else
  // A program with a C library of its own on a phone: the system's tool is asked.
  std::string said;
  if (std::FILE* tool = popen(("getprop " + std::string(name) + " 2>/dev/null").c_str(), "r")) {
    char block[128];
    if (std::fgets(block, sizeof block, tool) != nullptr) said = block;
    pclose(tool);
  }
  return one_line(said, 100);
#endif
}

// Another system image, library or bundle starts from nothing.
std::string key_of(const Bundle& bundle, const std::string& engine, const EngineOptions& options) {
  std::string key = std::string(POCKETVLM_VERSION) + "\n" + engine + "\n" + bundle.manifest_sha256 + "\n" +
                    property("ro.build.fingerprint") + "\n" + options.library;
  struct stat status;
  if (stat(options.library.c_str(), &status) == 0)
    key += "\n" + std::to_string(status.st_size) + "\n" + std::to_string(status.st_mtime);
  return key;
}

// The first load and step: a token, and a tile where the model sees pictures.
void first_step(const std::string& name, const Bundle& bundle, const EngineOptions& options) {
  const auto engine = open_engine(name, bundle, open_library(options.library), options.threads);
  const Manifest& manifest = engine->manifest();
  const int64_t id = 0;
  Floats embedding(size_t(manifest.entering_width()));
  engine->enter(&id, 1, embedding.data());
  const auto cache = engine->new_cache();
  engine->step(embedding.data(), 1, *cache);
  if (!manifest.vision) return;
  const Vision& vision = *manifest.vision;
  Floats tokens(size_t(vision.tokens_per_tile * manifest.hidden_size));
  engine->encode(engine->patch_embed(Floats(size_t(3 * vision.tile_size * vision.tile_size), 0.0f), 1), 1, tokens.data());
}

// Why an engine that may end its process is not to be opened in this one.
std::optional<std::string> why_not(const std::string& name, const Bundle& bundle, const EngineOptions& options,
                                   bool& was_known) {
  Verdict verdict(options.cache, key_of(bundle, name, options));
  was_known = verdict.state() != Verdict::unknown;
  if (!was_known) {
    verdict.begin();
    verdict.end(attempt([&] { first_step(name, bundle, options); }, options.try_limit_s));
  }
  return verdict.state() == Verdict::works ? std::nullopt : std::optional<std::string>(verdict.reason());
}

std::vector<PreferredEngine> preference_of(const Manifest& manifest) {
  if (!manifest.preference.empty()) return manifest.preference;
  PreferredEngine onnx;
  onnx.engine = "onnx";
  return {onnx};
}

}  // namespace

MachineFacts facts_here(const std::vector<PreferredEngine>& wanted) {
  MachineFacts facts;
  facts.engines = {"onnx", "qnn"};
  facts.abi = kAbi;
  for (const PreferredEngine& one : wanted) {
    if (!one.chips.empty() && !facts.chip) facts.chip = property("ro.soc.model");
    for (const DriverLibrary& library : one.libraries)
      for (const std::string& path : library.paths())
        if (access(path.c_str(), F_OK) == 0) facts.files.insert(path);
  }
  return facts;
}

SelectedEngine select_engine(const Bundle& bundle, const EngineOptions& options) {
  const Library& library = open_library(options.library);
  const auto open = [&](const std::string& name) { return open_engine(name, bundle, library, options.threads); };
  if (!options.engine.empty()) {
    if (std::find(std::begin(kEngines), std::end(kEngines), options.engine) == std::end(kEngines))
      throw Error(Failure::usage,
                  "there is no engine '" + one_line(options.engine, 40) + "': choose onnx, qnn or qnn-emulation");
    return {open(options.engine), options.engine, {}};
  }
  const std::vector<PreferredEngine> listed = preference_of(bundle.manifest);
  MachineFacts facts = facts_here(listed);
  facts.versions["onnxruntime"] = library.version;
  std::map<std::string, std::string> now;  // those that failed just now, whose reason is theirs alone
  for (;;) {
    EngineChoice choice = choose(listed, facts);
    for (auto& [name, reason] : choice.skipped)
      if (now.count(name) != 0) reason = now[name];
    if (!choice.engine) {
      std::string reasons;
      for (const auto& [name, reason] : choice.skipped) reasons += (reasons.empty() ? "" : "; ") + name + ": " + reason;
      throw Error(Failure::bundle, "the bundle has no engine that runs here: " + reasons);
    }
    const std::string name = *choice.engine;
    if (!may_die(name)) return {open(name), name, choice.skipped};
    bool was_known = false;
    auto reason = why_not(name, bundle, options, was_known);
    if (!reason) {
      try {
        return {open(name), name, choice.skipped};
      } catch (const Error& error) {
        reason = error.what(), was_known = false;  // as one that has no room for what the other process had
      }
    }
    facts.failed[name] = *reason;
    if (!was_known) now[name] = *reason;
  }
}

}  // namespace pocketvlm
