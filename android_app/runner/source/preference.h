// Which engine of a bundle runs on a machine, and why a better one does not: runtime/choice.py's rule, which
// tests/golden/engines.json holds.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace pocketvlm {

namespace json {
class Reader;
}

// A library of the system's: one of `names` has to lie in one of `places`.
struct DriverLibrary {
  std::vector<std::string> names, places;
  std::vector<std::string> paths() const;
};

// An engine of a bundle and what it needs; what is empty asks for nothing.
struct PreferredEngine {
  std::string engine;
  std::vector<std::string> abis, chips;
  std::vector<DriverLibrary> libraries;
  std::map<std::string, std::string> versions;  // of a runtime or driver, the oldest
};

// What decides about engines.
struct MachineFacts {
  std::set<std::string> engines;    // those that the program which asks has at all
  std::optional<std::string> chip;  // Android's ro.soc.model, none where nobody says it
  std::string abi;                  // as Android names it
  // Of runtimes and drivers; none of one that is not there, and of those that cannot be asked nothing.
  std::map<std::string, std::optional<std::string>> versions;
  std::set<std::string> files;                // paths of the system's libraries that are there
  std::map<std::string, std::string> failed;  // engine -> how it ended when it was tried here, in words
};

struct EngineChoice {
  std::optional<std::string> engine;
  std::vector<std::pair<std::string, std::string>> skipped;  // better engines, each with why not
};

EngineChoice choose(const std::vector<PreferredEngine>& engines, const MachineFacts& machine);

// The section `preference` of a manifest. Failure: json::Refused.
std::vector<PreferredEngine> read_preference(const json::Reader& value);

// Whether an installed version is older than the one that is asked for: the numbers that they begin with.
bool is_older(const std::string& installed, const std::string& least);

}  // namespace pocketvlm
