#include "manifest_chat.h"

namespace pocketvlm {

using json::Members;
using json::Reader;

// What is there and not null; format 3 alone may have it.
std::optional<Reader> in_format_3(const Members& of, const char* key, int64_t format) {
  const auto given = of.optional(key);
  if (!given || given->is_null()) return std::nullopt;
  if (format < 3) given->refuse("formats 1 and 2 do not have it");
  return given;
}

// The same of format 5.
std::optional<Reader> in_format_5(const Members& of, const char* key, int64_t format) {
  const auto given = of.optional(key);
  if (!given || given->is_null()) return std::nullopt;
  if (format < 5) given->refuse("only format 5 has it");
  return given;
}

namespace {

constexpr size_t kLiteral = 1 << 16;  // of text around what people write, as in pocketvlm/bundle/tools.py

// Whether a flag is set, which only format 5 has.
bool is_set_in_format_5(const Members& of, const char* name, int64_t format) {
  const auto given = of.optional(name);
  const bool is_set = given && given->boolean();
  if (is_set && format < 5) given->refuse("only format 5 has it");
  return is_set;
}

// Texts of how tools are listed, called and answered, none of which is used here.
void check_tools(const Reader& value) {
  const auto texts = [](const Members& of, std::initializer_list<const char*> names) {
    for (const char* name : names) of[name].text(kLiteral);
  };
  const Members of = value.members({"behind_system", "alone", "between", "behind", "functions", "calls", "results"});
  texts(of, {"alone", "between", "behind"});
  if (const Reader behind = of["behind_system"]; !behind.is_null()) behind.text(kLiteral);
  of["functions"].boolean();
  texts(of["calls"].members({"prefix", "behind_text", "middle", "between", "suffix"}),
        {"prefix", "behind_text", "middle", "between", "suffix"});
  texts(of["results"].members({"prefix", "between", "suffix"}), {"prefix", "between", "suffix"});
}

}  // namespace

bool read_chat(const Reader& value, int64_t format, Manifest& manifest) {
  const Members of = value.members({"start", "roles", "default_system", "generation_prefix", "reasoning", "image", "text",
                                    "images_first", "system_joins", "between", "strip_parts", "behind_images",
                                    "single_turn", "tools"});
  of["start"].text(kLiteral);
  of["generation_prefix"].text(kLiteral);
  const Reader roles = of["roles"], system = of["default_system"];
  const Members by_name = roles.members({"system", "user", "assistant"});
  for (const auto& [name, role] : roles.object()) {
    const Reader reader(role, roles, name);
    const Members literal = reader.members({"prefix", "suffix", "strip", "prefix_with_image"});
    literal["prefix"].text(kLiteral);
    literal["suffix"].text(kLiteral);
    literal["strip"].boolean();
    if (const auto with_image = in_format_3(literal, "prefix_with_image", format)) with_image->text(kLiteral);
  }
  if (!system.is_null()) system.text(kLiteral);
  if (const auto reasoning = in_format_3(of, "reasoning", format)) {
    const Members dropped = reasoning->members({"end", "trim"});
    if (const Reader end = dropped["end"]; !end.is_null() && end.text(kLiteral).empty())
      reasoning->refuse("its end is empty");
    dropped["trim"].text(kLiteral);
  }
  for (const char* part : {"image", "text"})
    if (const auto given = in_format_3(of, part, format)) {
      const Members around = given->members({"prefix", "suffix"});
      around["prefix"].text(kLiteral);
      around["suffix"].text(kLiteral);
    }
  if (const auto between = in_format_5(of, "between", format)) between->text(kLiteral);
  if (const auto tools = in_format_5(of, "tools", format)) check_tools(*tools);
  for (const char* flag : {"images_first", "system_joins"})
    if (const auto given = of.optional(flag); given && given->boolean() && format < 3)
      given->refuse("formats 1 and 2 do not have it");
  is_set_in_format_5(of, "strip_parts", format);
  manifest.single_turn = is_set_in_format_5(of, "single_turn", format);
  if (const auto behind = in_format_5(of, "behind_images", format)) {
    behind->text(kLiteral);
    const auto first = of.optional("images_first");
    if (!first || !first->boolean()) behind->refuse("it is of a layout whose images come first");
  }
  return by_name.optional("user") && by_name.optional("assistant") && (system.is_null() || by_name.optional("system"));
}

}  // namespace pocketvlm
