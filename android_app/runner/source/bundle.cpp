#include "bundle.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <regex>

#include "graph.h"
#include "sha256.h"
#include "tiling.h"

namespace pocketvlm {
namespace {

constexpr int64_t kMaxManifest = 16 << 20, kMaxGraph = 256 << 20;
constexpr int64_t kSample = 4096, kSamples = 16, kHollowFrom = 64 << 20;

[[noreturn]] void refuse(const std::string& line) { throw Error(Failure::bundle, line); }

std::string said(int number) { return std::strerror(number); }

// A regular file that is open, or an error. Links are not followed.
class File {
 public:
  File(const std::string& path, Failure failure) : path_(one_line(path, 200)), failure_(failure) {
    // A pipe would block without O_NONBLOCK.
    descriptor_ =
        path.find('\0') == std::string::npos ? open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK) : -1;
    if (descriptor_ < 0) fail(errno == ELOOP ? "is a link, not a file" : "cannot be read: " + said(errno));
    struct stat status;
    if (fstat(descriptor_, &status) != 0 || !S_ISREG(status.st_mode)) {
      close(descriptor_);
      fail("is not a regular file");
    }
    size_ = status.st_size;
  }
  ~File() { close(descriptor_); }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  int64_t size() const { return size_; }

  // The bytes from `offset` on.
  void read(int64_t offset, char* to, int64_t count) const {
    while (count > 0) {
      const ssize_t got = pread(descriptor_, to, size_t(count), offset);
      if (got < 0 && errno == EINTR) continue;
      if (got <= 0) fail(got < 0 ? "cannot be read: " + said(errno) : "became shorter while it was read");
      offset += got, to += got, count -= got;
    }
  }

 private:
  [[noreturn]] void fail(const std::string& why) const { throw Error(failure_, path_ + " " + why); }
  std::string path_;
  Failure failure_;
  int descriptor_;
  int64_t size_;
};

std::string resolved(const std::string& path) {
  char* real = path.find('\0') == std::string::npos ? realpath(path.c_str(), nullptr) : nullptr;
  const std::string result = real == nullptr ? "" : real;
  std::free(real);
  return result;
}

std::string above(const std::string& path) { return path.substr(0, path.rfind('/')); }

// Whether most of a large file are holes, as the file system tells: a terabyte of nothing takes as long to hash as one
// of weights.
bool is_hollow(const std::string& path, int64_t size) {
  if (size < kHollowFrom) return false;
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
  if (descriptor < 0) return false;
  int64_t held = 0, end = 0;
  while (2 * held < size) {
    const int64_t start = lseek(descriptor, end, SEEK_DATA);
    const bool no_more = start < 0 && errno == ENXIO;
    if (start >= 0) end = lseek(descriptor, start, SEEK_HOLE);
    if (start < 0 || end < 0) {
      close(descriptor);
      return no_more;
    }
    held += end - start;
  }
  close(descriptor);
  return false;
}

// All sizes are looked at before any content.
void check_size(const std::string& path, const std::string& name, const FileEntry& entry) {
  struct stat status;
  if (lstat(path.c_str(), &status) != 0) refuse(name + " is missing: copy or export the bundle again");
  if (!S_ISREG(status.st_mode)) refuse(name + " is not a regular file");
  if (status.st_size != entry.bytes)
    refuse(name + " has " + std::to_string(status.st_size) + " bytes, the manifest says " +
           std::to_string(entry.bytes) + ": it was cut or replaced");
  if (is_hollow(path, entry.bytes))
    refuse(name + " is a sparse file: most of its " + std::to_string(entry.bytes) + " bytes are not on the disk");
}

void check_content(const std::string& path, const std::string& name, const FileEntry& entry, bool verify) {
  if (file_sample_sha256(path) != entry.sample_sha256 || (verify && file_sha256(path) != entry.sha256))
    refuse(name + " does not have the content that the manifest describes: it is damaged or was swapped");
}

// What the dimensions of a part's inputs that vary are at most.
std::map<std::string, int64_t> sizes_of(const Manifest& manifest, const std::string& name) {
  const int64_t length = manifest.kv_length;
  const int64_t step = name == "token_embedding" ? length : std::min(length, manifest.prefill_chunk);
  const int64_t tiles = manifest.vision ? manifest.vision->tile_batch : 1;
  std::map<std::string, int64_t> sizes = {
      {"batch", 1}, {"sequence", step}, {"kept", step}, {"total", length}, {"tiles", tiles}};
  if (manifest.vision && manifest.vision->patches) {
    const PatchPictures& native = *manifest.vision->patches;
    sizes["tiles"] = native.most_tokens;
    if (native.window) sizes["windows"] = most_windows(native.most_tokens, *native.window);
  }
  return sizes;
}

// Refuses graphs that no export writes: before ONNX Runtime sees them, which trusts them.
void check_part(const Bundle& bundle, const std::string& name, const Part& part) {
  const std::string graph = read_file(bundle.path(part.file), kMaxGraph, Failure::bundle);
  const std::string beside = part.file.substr(0, part.file.rfind('/') + 1);
  std::map<std::string, int64_t> data;
  for (const std::string& file : part.data)
    if (file.compare(0, beside.size(), beside) == 0)
      data[file.substr(beside.size())] = bundle.manifest.files.at(file).bytes;
  try {
    check_graph(graph, sizes_of(bundle.manifest, name), data);
  } catch (const Error& error) {
    refuse(part.file + " is not a graph that a bundle may have: " + error.what());
  }
}

// A program holds its weights; eight bytes of it are looked at.
void check_program(const Bundle& bundle, const std::string& name, const Part& part) {
  const File file(bundle.path(part.file), Failure::bundle);
  char start[8] = {};
  file.read(0, start, std::min<int64_t>(file.size(), sizeof start));
  if (!part.data.empty() || start[4] != 'E' || start[5] != 'T')
    refuse(part.file + ", of the part " + one_line(name, 80) + ", is not an ExecuTorch program with its weights inside");
}

}  // namespace

std::string Bundle::path(const std::string& name) const {
  if (!is_file_name(name)) refuse("'" + one_line(name, 80) + "' is not a file name a bundle may use");
  const std::string whole = directory + "/" + name, parent = resolved(above(whole));
  if (parent.empty()) refuse(name + " is missing: copy or export the bundle again");
  // No folder on the way may be a link that leads elsewhere.
  if (parent != above(resolved(directory) + "/" + name)) refuse(name + " points outside the bundle");
  return whole;
}

Bundle open_bundle(const std::string& directory, bool verify) {
  const std::string shown = one_line(directory, 200), path = directory + "/manifest.json";
  struct stat status;
  if (directory.find('\0') != std::string::npos || stat(directory.c_str(), &status) != 0 || !S_ISDIR(status.st_mode))
    refuse(shown + " is not a bundle: no such directory");
  if (lstat(path.c_str(), &status) != 0 || (!S_ISREG(status.st_mode) && !S_ISLNK(status.st_mode)))
    refuse(shown + " is not a bundle: it has no manifest.json");
  const std::string text = read_file(path, kMaxManifest, Failure::bundle);
  Sha256 digest;
  digest.update(text);
  Bundle bundle{directory, parse_manifest(text, path), digest.hexadecimal()};
  for (const auto& [name, entry] : bundle.manifest.files) check_size(bundle.path(name), name, entry);
  for (const auto& [name, entry] : bundle.manifest.files) check_content(bundle.path(name), name, entry, verify);
  for (const auto& engine : bundle.manifest.engines)
    for (const auto& [name, part] : engine.second)
      if (engine.first == "executorch") check_program(bundle, name, part);
      else if (engine.first.rfind("litert", 0) != 0) check_part(bundle, name, part);  // LiteRT's are not run here
  return bundle;
}

std::string read_file(const std::string& path, int64_t most, Failure failure) {
  const File file(path, failure);
  if (file.size() > most)
    throw Error(failure, one_line(path, 200) + " is larger than " + std::to_string(most) + " bytes");
  std::string content(size_t(file.size()), '\0');
  file.read(0, content.data(), file.size());
  return content;
}

std::string file_sha256(const std::string& path) {
  const File file(path, Failure::bundle);
  std::string block(1 << 20, '\0');
  Sha256 digest;
  for (int64_t at = 0; at < file.size(); at += int64_t(block.size())) {
    const int64_t count = std::min(int64_t(block.size()), file.size() - at);
    file.read(at, block.data(), count);
    digest.update(block.data(), size_t(count));
  }
  return digest.hexadecimal();
}

std::string file_sample_sha256(const std::string& path) {
  const File file(path, Failure::bundle);
  std::string block(size_t(std::min(file.size(), kSample * kSamples)), '\0');
  Sha256 digest;
  digest.update(std::to_string(file.size()));
  if (file.size() <= kSample * kSamples) {
    file.read(0, block.data(), file.size());
    digest.update(block);
  } else {
    for (int64_t i = 0; i < kSamples; i++) {
      file.read((file.size() - kSample) * i / (kSamples - 1), block.data(), kSample);
      digest.update(block.data(), size_t(kSample));
    }
  }
  return digest.hexadecimal();
}

void check_minimum(const std::string& library, const std::string& minimum, const std::string& installed) {
  static const std::regex pattern(R"(\d{1,6}(\.\d{1,6}){0,3})");
  if (minimum.size() > 27 || !std::regex_match(minimum, pattern))
    refuse("the manifest's minimum_runtime." + library + " is not a version");
  if (is_older(installed, minimum))
    refuse("the bundle needs " + library + " " + minimum + " or newer, " + one_line(installed, 40) +
           " is installed: update it");
}

}  // namespace pocketvlm
