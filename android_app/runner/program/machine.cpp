#include "machine.h"

#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <sstream>
#include <string>
#include <vector>

namespace pocketvlm {
namespace {

namespace fs = std::filesystem;

// The beginning of a small file, without what stands around its text; "" where it cannot be read.
std::string text_of(const fs::path& path, size_t most = 1000) {
  std::ifstream file(path);
  std::string text(most, '\0');
  file.read(text.data(), std::streamsize(most));
  text.resize(size_t(std::max<std::streamsize>(0, file.gcount())));
  const char* around = " \t\r\n";
  text.erase(std::remove(text.begin(), text.end(), '\0'), text.end());
  text.erase(0, std::min(text.find_first_not_of(around), text.size()));
  text.erase(text.find_last_not_of(around) + 1);
  return text;
}

// Folders of a directory whose names are `prefix` and a number, by that number.
std::map<int, fs::path> numbered(const fs::path& directory, const std::string& prefix) {
  std::map<int, fs::path> found;
  std::error_code ignored;
  for (fs::directory_iterator at(directory, ignored), end; !ignored && at != end; at.increment(ignored)) {
    const std::string name = at->path().filename(), digits = name.substr(std::min(prefix.size(), name.size()));
    if (name.compare(0, prefix.size(), prefix) == 0 && !digits.empty() && digits.size() < 6 &&
        digits.find_first_not_of("0123456789") == std::string::npos)
      found[std::stoi(digits)] = at->path();
  }
  return found;
}

bool is_number(const std::string& text, size_t most_digits) {
  const size_t sign = text.rfind('-', 0) == 0 ? 1 : 0;
  return text.size() > sign && text.size() - sign <= most_digits &&
         text.find_first_not_of("0123456789", sign) == std::string::npos;
}

struct Cpu {
  std::string name;
  std::set<std::string> features;
  std::vector<double> megahertz;
};

// What /proc/cpuinfo says (pocketvlm/machine/cpu.py): x86 has "model name" and "flags", arm64 "Hardware" and "Features".
Cpu read_cpu() {
  Cpu cpu;
  std::map<std::string, std::string> first;
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const size_t colon = line.find(':');
    if (colon == std::string::npos) continue;
    const std::string key = line.substr(0, line.find_last_not_of(" \t", colon == 0 ? 0 : colon - 1) + 1);
    const size_t begin = line.find_first_not_of(" \t", colon + 1);
    const std::string value = begin == std::string::npos ? "" : line.substr(begin);
    first.emplace(key, value);
    if (key == "cpu MHz" && value.size() < 16) cpu.megahertz.push_back(std::atof(value.c_str()));
  }
  cpu.name = first.count("model name") != 0 ? first["model name"] : first["Hardware"];
  std::istringstream words(first.count("flags") != 0 ? first["flags"] : first["Features"]);
  for (std::string word; words >> word;) cpu.features.insert(word);
  return cpu;
}

}  // namespace

nlohmann::json frequencies() {
  nlohmann::json found = nlohmann::json::array();
  for (const auto& cpu : numbered("/sys/devices/system/cpu", "cpu")) {
    const std::string text = text_of(cpu.second / "cpufreq" / "scaling_cur_freq");
    if (is_number(text, 9) && text[0] != '-') found.push_back(std::stod(text) / 1000);
  }
  return found.empty() ? nlohmann::json(read_cpu().megahertz) : found;
}

nlohmann::json temperatures() {
  nlohmann::json found = nlohmann::json::object();
  for (const auto& zone : numbered("/sys/class/thermal", "thermal_zone")) {
    const std::string text = text_of(zone.second / "temp"), type = text_of(zone.second / "type", 200);
    if (is_number(text, 7)) found[type.empty() ? zone.second.filename().string() : type] = std::stod(text) / 1000;
  }
  return found;
}

double load_average() {
  double load = 0;
#if !defined(__ANDROID__) || __ANDROID_API__ >= 29
  if (getloadavg(&load, 1) != 1) load = 0;
#endif
  return std::max(load, 0.0);
}

nlohmann::json describe_machine() {
  utsname system{};
  uname(&system);
  const Cpu cpu = read_cpu();
  std::string device = text_of("/sys/firmware/devicetree/base/model", 200);
  if (device.empty()) device = text_of("/sys/class/dmi/id/product_name", 200);
  const std::string governor = text_of("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor");
  nlohmann::json instructions = nlohmann::json::array();
  for (const char* name : {"avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm", "sve2"})
    if (cpu.features.count(name) != 0) instructions.push_back(name);
  return {{"device", device.empty() ? "host" : device},
          {"system", system.sysname},
          {"kernel", system.release},
          {"architecture", system.machine},
          {"cpu", cpu.name.empty() ? system.machine : cpu.name.substr(0, 2000)},
          {"instructions", instructions},
          {"cores", std::max(1L, sysconf(_SC_NPROCESSORS_ONLN))},
          {"governor", governor.empty() ? nlohmann::json() : nlohmann::json(governor)},
          {"frequencies", frequencies()},
          {"temperatures", temperatures()},
          {"load_before", load_average()}};
}

nlohmann::json memory_after(const std::string& phase) {
  const std::map<std::string, std::string> fields = {
      {"VmRSS", "resident"}, {"RssAnon", "anonymous"}, {"RssFile", "mapped"}, {"VmHWM", "peak"}};
  nlohmann::json memory = {{"phase", phase}, {"resident", 0}, {"anonymous", 0}, {"mapped", 0}, {"peak", 0}};
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    const size_t colon = line.find(':');
    const auto field = fields.find(line.substr(0, std::min(colon, line.size())));
    if (field != fields.end()) memory[field->second] = std::atoll(line.c_str() + colon + 1) * 1024;
  }
  return memory;
}

}  // namespace pocketvlm
