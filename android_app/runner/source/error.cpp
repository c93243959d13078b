#include "error.h"

#include <cstdio>

namespace pocketvlm {

std::string one_line(std::string_view text, size_t most) {
  std::string line;
  bool gap = false;
  for (const char given : text) {
    const auto byte = static_cast<unsigned char>(given);
    if (byte == ' ' || (byte >= '\t' && byte <= '\r')) {
      gap = !line.empty();
      continue;
    }
    if (gap) line += ' ';
    gap = false;
    if (byte > 0x20 && byte < 0x7f) {
      line += given;
    } else {
      char escaped[5];
      std::snprintf(escaped, sizeof escaped, "\\x%02x", byte);
      line += escaped;
    }
    if (line.size() > most) {
      line.resize(most - 3);
      return line + "...";
    }
  }
  return line;
}

}  // namespace pocketvlm
