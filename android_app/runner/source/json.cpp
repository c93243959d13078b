#include "json.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "error.h"

namespace pocketvlm::json {
namespace {

constexpr size_t kMaxDepth = 64;
constexpr size_t kMaxDigits = 4300;

// Builds a Value from the library's events, so that doubled keys, huge numbers and depth are seen.
class Builder : public nlohmann::json_sax<nlohmann::json> {
 public:
  Value root;
  std::string problem;

  bool null() override { return add(Value{nullptr}); }
  bool boolean(bool value) override { return add(Value{value}); }
  bool number_integer(number_integer_t value) override { return add(Value{int64_t{value}}); }
  bool number_unsigned(number_unsigned_t value) override {
    return value > uint64_t(std::numeric_limits<int64_t>::max()) ? add(Value{uint64_t{value}})
                                                                 : add(Value{int64_t(value)});
  }
  bool number_float(number_float_t value, const string_t& digits) override {
    if (digits.find_first_of(".eE") != string_t::npos) return add(Value{double{value}});
    if (digits.size() - (digits[0] == '-') > kMaxDigits) return fail("a number has too many digits");
    return add(Value{HugeInteger{value}});
  }
  bool string(string_t& value) override { return add(Value{std::make_unique<std::string>(std::move(value))}); }
  bool binary(binary_t&) override { return fail("binary data"); }
  bool start_object(size_t) override { return open(Value{std::make_unique<Object>()}); }
  bool start_array(size_t) override { return open(Value{std::make_unique<Array>()}); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool key(string_t& value) override {
    std::get<std::unique_ptr<Object>>(open_.back()->is)->emplace_back(std::move(value), Value{});
    return true;
  }
  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception&) override {
    return fail("it is not JSON, or cut off, at byte " + std::to_string(position));
  }

 private:
  // The open containers: pointers stay valid, since only the innermost one grows.
  std::vector<Value*> open_;

  bool fail(std::string why) {
    problem = std::move(why);
    return false;
  }
  Value* place(Value&& value) {
    if (open_.empty()) {
      root = std::move(value);
      return &root;
    }
    if (auto* array = std::get_if<std::unique_ptr<Array>>(&open_.back()->is)) {
      (*array)->push_back(std::move(value));
      return &(*array)->back();
    }
    Value& last = std::get<std::unique_ptr<Object>>(open_.back()->is)->back().second;
    last = std::move(value);
    return &last;
  }
  bool add(Value&& value) {
    place(std::move(value));
    return true;
  }
  bool open(Value&& value) {
    if (open_.size() >= kMaxDepth) return fail("it is nested too deeply");
    open_.push_back(place(std::move(value)));
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
  if (!nlohmann::json::sax_parse(text.begin(), text.end(), &builder)) throw Refused{"", builder.problem};
  return std::move(builder.root);
}

std::string Reader::where() const {
  if (parent_ == nullptr) return "";
  std::string above = parent_->where();
  std::string here = index_ >= 0 ? std::to_string(index_) : one_line(key_, 120);
  return above.empty() ? here : above + "." + here;
}

bool Reader::boolean() const {
  if (const bool* value = std::get_if<bool>(&value_->is)) return *value;
  refuse("it must be true or false");
}

int64_t Reader::integer(int64_t low, int64_t high) const {
  const int64_t* value = std::get_if<int64_t>(&value_->is);
  if (value == nullptr || *value < low || *value > high)
    refuse("it must be a whole number from " + std::to_string(low) + " to " + std::to_string(high));
  return *value;
}

uint64_t Reader::unsigned_integer() const {
  if (const uint64_t* value = std::get_if<uint64_t>(&value_->is)) return *value;
  const int64_t* value = std::get_if<int64_t>(&value_->is);
  if (value == nullptr || *value < 0) refuse("it must be a whole number from 0 to 2**64 - 1");
  return uint64_t(*value);
}

bool Reader::is_any_integer() const {
  return std::holds_alternative<int64_t>(value_->is) || std::holds_alternative<uint64_t>(value_->is) ||
         std::holds_alternative<HugeInteger>(value_->is);
}

double Reader::number() const {
  double result = std::nan("");
  if (const double* value = std::get_if<double>(&value_->is)) result = *value;
  if (const int64_t* value = std::get_if<int64_t>(&value_->is)) result = double(*value);
  if (const uint64_t* value = std::get_if<uint64_t>(&value_->is)) result = double(*value);
  if (const HugeInteger* value = std::get_if<HugeInteger>(&value_->is)) result = value->value;
  if (!std::isfinite(result)) refuse("it must be a finite number");
  return result;
}

double Reader::number(double low, double high) const {
  const double value = number();
  if (value < low || value > high)
    refuse("it must be a number from " + std::to_string(low) + " to " + std::to_string(high));
  return value;
}

const std::string& Reader::text() const {
  if (!is_text()) refuse("it must be a string");
  return *std::get<std::unique_ptr<std::string>>(value_->is);
}

std::string Reader::choice(std::initializer_list<std::string_view> choices) const {
  const std::string& value = text();
  if (std::find(choices.begin(), choices.end(), value) != choices.end()) return value;
  std::string known;
  for (const std::string_view choice : choices) known += (known.empty() ? "" : ", ") + std::string(choice);
  refuse("it must be one of " + known);
}

const Array& Reader::array(size_t least, size_t most) const {
  const auto* value = std::get_if<std::unique_ptr<Array>>(&value_->is);
  if (value == nullptr) refuse("it must be a list");
  if ((*value)->size() < least || (*value)->size() > most)
    refuse("it has " + std::to_string((*value)->size()) + " elements");
  return **value;
}

const Object& Reader::object() const {
  const auto* value = std::get_if<std::unique_ptr<Object>>(&value_->is);
  if (value == nullptr) refuse("it must be an object");
  return **value;
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
