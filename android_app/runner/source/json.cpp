#include "json.h"

#include <algorithm>
#include <cstdlib>

#include "error.h"

namespace pocketvlm::json {
namespace {

constexpr size_t kMaxDepth = 64;
constexpr int kOutOfRange = 406;  // the library's number of a number that no double holds

// Builds a Value from the library's events, so that doubled keys, huge numbers and depth are seen.
class Builder : public nlohmann::json_sax<Value> {
 public:
  Value root;
  std::string problem;

  bool null() override { return add(nullptr); }
  bool boolean(bool value) override { return add(value); }
  bool number_integer(number_integer_t value) override { return add(value); }
  bool number_unsigned(number_unsigned_t value) override { return add(value); }
  bool number_float(number_float_t value, const string_t& digits) override {
    if (digits.find_first_of(".eE") != string_t::npos) return add(value);
    return add(Value::binary({digits.begin(), digits.end()}));
  }
  bool string(string_t& value) override { return add(std::move(value)); }
  bool binary(binary_t&) override { return fail("binary data"); }
  bool start_object(size_t) override { return open(Value::value_t::object); }
  bool start_array(size_t) override { return open(Value::value_t::array); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool key(string_t& value) override {
    open_.back()->get_ref<Object&>().emplace_back(std::move(value), nullptr);
    return true;
  }
  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception& error) override {
    const char* what = error.id == kOutOfRange ? "a number is too large" : "it is not JSON, or cut off,";
    return fail(what + (" at byte " + std::to_string(position)));
  }

 private:
  // The open containers: pointers stay valid, since only the innermost one grows.
  std::vector<Value*> open_;

  bool fail(std::string why) {
    problem = std::move(why);
    return false;
  }
  Value& place(Value&& value) {
    if (open_.empty()) return root = std::move(value);
    if (open_.back()->is_array()) return open_.back()->emplace_back(std::move(value));
    return open_.back()->get_ref<Object&>().back().second = std::move(value);
  }
  bool add(Value&& value) {
    place(std::move(value));
    return true;
  }
  bool open(Value&& value) {
    if (open_.size() >= kMaxDepth) return fail("it is nested too deeply");
    open_.push_back(&place(std::move(value)));
    return true;
  }
  bool close() {
    open_.pop_back();
    return true;
  }
};

}  // namespace

Value parse(std::string_view text) {
  Builder builder;
  if (text.substr(0, 3) == "\xef\xbb\xbf") throw Refused{"", "it is not JSON: it begins with a byte order mark"};
  // The library would take a zero for the text's end, whatever follows.
  if (text.find('\0') != std::string_view::npos) throw Refused{"", "it is not JSON: it has a zero byte"};
  if (!Value::sax_parse(text.begin(), text.end(), &builder)) throw Refused{"", builder.problem};
  return std::move(builder.root);
}

std::string Reader::where() const {
  if (parent_ == nullptr) return "";
  std::string above = parent_->where();
  std::string here = index_ >= 0 ? std::to_string(index_) : one_line(key_, 120);
  return above.empty() ? here : above + "." + here;
}

bool Reader::boolean() const {
  if (!value_->is_boolean()) refuse("it must be true or false");
  return value_->get<bool>();
}

int64_t Reader::integer(int64_t low, int64_t high) const {
  const bool beyond = value_->is_number_unsigned() && value_->get<uint64_t>() > uint64_t(high);
  if (!value_->is_number_integer() || beyond || value_->get<int64_t>() < low || value_->get<int64_t>() > high)
    refuse("it must be a whole number from " + std::to_string(low) + " to " + std::to_string(high));
  return value_->get<int64_t>();
}

uint64_t Reader::unsigned_integer() const {
  if (!value_->is_number_integer() || (!value_->is_number_unsigned() && value_->get<int64_t>() < 0))
    refuse("it must be a whole number from 0 to 2**64 - 1");
  return value_->get<uint64_t>();
}

double Reader::number() const {
  if (value_->is_binary())
    return std::strtod(std::string(value_->get_binary().begin(), value_->get_binary().end()).c_str(), nullptr);
  if (!value_->is_number()) refuse("it must be a finite number");
  return value_->get<double>();
}

double Reader::number(double low, double high) const {
  const double value = number();
  if (value < low || value > high)
    refuse("it must be a number from " + std::to_string(low) + " to " + std::to_string(high));
  return value;
}

const std::string& Reader::text(size_t most) const {
  if (!is_text()) refuse("it must be a string");
  const auto& value = value_->get_ref<const std::string&>();
  check_length(value, most);
  return value;
}

void Reader::check_length(std::string_view text, size_t most) const {
  // The bytes that begin a character.
  const auto characters = std::count_if(text.begin(), text.end(), [](char byte) { return (byte & 0xc0) != 0x80; });
  if (size_t(characters) > most) refuse("it has more than " + std::to_string(most) + " characters");
}

std::string Reader::choice(std::initializer_list<std::string_view> choices) const {
  const std::string& value = text();
  if (std::find(choices.begin(), choices.end(), value) != choices.end()) return value;
  std::string known;
  for (const std::string_view choice : choices) known += (known.empty() ? "" : ", ") + std::string(choice);
  refuse("it must be one of " + known);
}

const Array& Reader::array(size_t least, size_t most) const {
  if (!value_->is_array()) refuse("it must be a list");
  if (value_->size() < least || value_->size() > most) refuse("it has " + std::to_string(value_->size()) + " elements");
  return value_->get_ref<const Array&>();
}

const Object& Reader::object() const {
  if (!value_->is_object()) refuse("it must be an object");
  return value_->get_ref<const Object&>();
}

Members Reader::members(std::initializer_list<std::string_view> keys) const {
  const Object& values = object();
  for (const auto& [key, value] : values)
    if (std::find(keys.begin(), keys.end(), key) == keys.end()) Reader(value, *this, key).refuse("it is not known");
  return {*this, values};
}

Reader Members::operator[](std::string_view key) const {
  if (const auto found = optional(key)) return *found;
  static const Value nothing;
  Reader(nothing, *reader_, key).refuse("it is missing");
}

std::optional<Reader> Members::optional(std::string_view key) const {
  const auto found =
      std::find_if(object_->rbegin(), object_->rend(), [&](const auto& member) { return member.first == key; });
  if (found == object_->rend()) return std::nullopt;
  return Reader(found->second, *reader_, found->first);
}

}  // namespace pocketvlm::json
