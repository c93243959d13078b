// Bundles on disk: opened safely, checked as pocketvlm/bundle/open.py checks them.
#pragma once

#include <string>
#include <string_view>

#include "error.h"
#include "manifest.h"

namespace pocketvlm {

struct Bundle {
  std::string directory;
  Manifest manifest;
  std::string manifest_sha256 = {};  // what tells bundles apart
  // Where the file of the manifest lies, which is inside the directory. Failure: bundle.
  std::string path(const std::string& name) const;
};

// A directory's manifest, its files' sizes and digests (with `verify` of their whole content), its graphs by their grammar.
// Failure: bundle, naming the file or the key that is wrong.
Bundle open_bundle(const std::string& directory, bool verify);

// The whole of a regular file that has at most so many bytes. Failure: `failure`.
std::string read_file(const std::string& path, int64_t most, Failure failure);

std::string file_sha256(const std::string& path);
std::string file_sample_sha256(const std::string& path);

// Refuses a bundle that asks for a newer version of a library than `installed`. Failure: bundle.
void check_minimum(const std::string& library, const std::string& minimum, const std::string& installed);

}  // namespace pocketvlm
