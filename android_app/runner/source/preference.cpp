#include "preference.h"

#include <algorithm>
#include <cstdlib>
#include <regex>

#include "json.h"

namespace pocketvlm {
namespace {

using json::Members;
using json::Reader;

// A text of at most so many characters, all of the form that the pattern has.
std::string of_form(const Reader& value, const char* pattern, size_t most) {
  const std::string& text = value.text();
  // The length first: a pattern takes as many calls as a text has characters.
  if (text.size() > most || !std::regex_match(text, std::regex(pattern))) value.refuse("it has not the form of one");
  return text;
}

std::string abi(const Reader& value) { return value.choice({"arm64-v8a", "armeabi-v7a", "x86_64", "x86"}); }
std::string chip(const Reader& value) { return of_form(value, "[A-Z0-9][A-Z0-9_-]*", 64); }
std::string library_name(const Reader& value) { return of_form(value, "[A-Za-z0-9_][A-Za-z0-9._+-]*", 128); }
std::string place(const Reader& value) {
  return of_form(value, "/(vendor|system|system_ext|odm|product|apex)(/[A-Za-z0-9_][A-Za-z0-9._+-]*)*", 255);
}

DriverLibrary library(const Reader& value) {
  const Members of = value.members({"names", "places"});
  return {of["names"].list(library_name, 1, 8), of["places"].list(place, 1, 16)};
}

std::map<std::string, std::string> versions(const Reader& value) {
  std::map<std::string, std::string> read;
  static const std::regex component("[a-z][a-z0-9_-]*");
  for (const auto& [name, version] : value.object()) {
    const Reader reader(version, value, name);
    if (name.size() > 64 || !std::regex_match(name, component)) reader.refuse("its name is none of a component");
    read[name] = of_form(reader, "[0-9]{1,6}(\\.[0-9]{1,6}){0,3}", 27);
  }
  if (read.size() > 8) value.refuse("it has more than 8 entries");
  return read;
}

PreferredEngine preferred(const Reader& value) {
  const Members of = value.members({"engine", "abis", "chips", "libraries", "versions"});
  PreferredEngine read;
  read.engine = of["engine"].choice({"onnx", "executorch", "neuropilot", "qnn", "litert", "litert_npu"});
  if (const auto given = of.optional("abis")) read.abis = given->list(abi, 0, 4);
  if (const auto given = of.optional("chips")) read.chips = given->list(chip, 0, 64);
  if (const auto given = of.optional("libraries")) read.libraries = given->list(library, 0, 8);
  if (const auto given = of.optional("versions")) read.versions = versions(*given);
  return read;
}

std::string joined(const std::vector<std::string>& names, const char* last) {
  std::string text;
  for (size_t i = 0; i < names.size(); i++)
    text += (i == 0 ? "" : i + 1 == names.size() ? last : ", ") + names[i];
  return text;
}

std::string one_of(const std::vector<std::string>& names) { return joined(names, " or "); }

bool has(const std::vector<std::string>& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

// Whether a machine's chip is the one of that name: makers write sm8650, SM8650-AC, MT6989W.
bool is_chip(const std::string& name, const std::string& chip) {
  if (chip.size() < name.size()) return false;
  const auto same = [](char wanted, char said) { return wanted == (said >= 'a' && said <= 'z' ? said - 32 : said); };
  if (!std::equal(name.begin(), name.end(), chip.begin(), same)) return false;
  const char behind = chip.size() == name.size() ? '\0' : chip[name.size()];
  return behind < '0' || behind > '9';
}

std::optional<std::string> lacking(const DriverLibrary& library, const std::set<std::string>& files) {
  for (const std::string& path : library.paths())
    if (files.count(path) != 0) return std::nullopt;
  const std::string places = one_of(library.places);
  if (library.names.size() == 1) return library.names[0] + " is not in " + places;
  return "none of " + joined(library.names, ", ") + " is in " + places;
}

std::optional<std::string> too_old(const PreferredEngine& wanted, const MachineFacts& machine) {
  for (const auto& [component, least] : wanted.versions) {
    const auto found = machine.versions.find(component);
    if (found == machine.versions.end()) continue;
    const std::string needs = "it needs " + component + " " + least + " or newer, and ";
    if (!found->second) return needs + "there is none";
    if (is_older(*found->second, least)) return needs + *found->second + " is here";
  }
  return std::nullopt;
}

// The first thing that the machine lacks, as one phrase.
std::optional<std::string> why_not(const PreferredEngine& wanted, const MachineFacts& machine) {
  if (machine.engines.count(wanted.engine) == 0) return "this program has no engine for it";
  if (!wanted.abis.empty() && !has(wanted.abis, machine.abi))
    return "it is for " + one_of(wanted.abis) + ", and this is " + machine.abi;
  const std::string chip = machine.chip.value_or("");
  const auto is_this = [&chip](const std::string& name) { return is_chip(name, chip); };
  if (!wanted.chips.empty() && std::none_of(wanted.chips.begin(), wanted.chips.end(), is_this))
    return "it is for " + one_of(wanted.chips) + ", and " +
           (chip.empty() ? "this machine does not say which chip it has" : "this chip is " + chip);
  for (const DriverLibrary& library : wanted.libraries)
    if (const auto lack = lacking(library, machine.files)) return lack;
  if (const auto old = too_old(wanted, machine)) return old;
  const auto ended = machine.failed.find(wanted.engine);
  if (ended != machine.failed.end()) return "it was tried here before: " + ended->second;
  return std::nullopt;
}

}  // namespace

std::vector<std::string> DriverLibrary::paths() const {
  std::vector<std::string> found;
  for (const std::string& place : places)
    for (const std::string& name : names) found.push_back(place + "/" + name);
  return found;
}

EngineChoice choose(const std::vector<PreferredEngine>& engines, const MachineFacts& machine) {
  EngineChoice choice;
  for (const PreferredEngine& one : engines) {
    const auto reason = why_not(one, machine);
    if (!reason) {
      choice.engine = one.engine;
      break;
    }
    choice.skipped.emplace_back(one.engine, *reason);
  }
  return choice;
}

std::vector<PreferredEngine> read_preference(const Reader& value) { return value.list(preferred, 0, 16); }

bool is_older(const std::string& installed, const std::string& least) {
  const auto numbers = [](const char* text) {
    std::vector<unsigned long> found;
    char* end = nullptr;
    while (*text >= '0' && *text <= '9') {
      found.push_back(std::strtoul(text, &end, 10));
      text = *end == '.' ? end + 1 : end;
    }
    while (!found.empty() && found.back() == 0) found.pop_back();  // 1.29 is 1.29.0
    return found;
  };
  return numbers(installed.c_str()) < numbers(least.c_str());
}

}  // namespace pocketvlm
