// JSON as the manifest and the plan want it: read once, strictly, with the place of what is wrong in the error.
#pragma once

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace pocketvlm::json {

// In the file's order, with each of a doubled key's values: the last one counts, as for Python's reader.
template <typename Key, typename Value, typename...>
struct Pairs : std::vector<std::pair<Key, Value>> {
  using key_type = Key;
  using key_compare = std::equal_to<>;
  using mapped_type = Value;
};

// A whole number beyond 64 bits, allowed where any number is, stands in its digits as "binary", which JSON has no word
// for.
using Value = nlohmann::basic_json<Pairs>;
using Array = Value::array_t;
using Object = Value::object_t;
// A growing object moves its values. As copies, which are deep, 9 MB of nested objects took 52 seconds.
static_assert(std::is_nothrow_move_constructible_v<Object::value_type>);

// The one value of a text. Error without a byte order mark, with trailing text, invalid UTF-8, NaN, infinity, numbers
// beyond a double or more than 64 levels. Failure: `Refused`, place "".
Value parse(std::string_view text);

// What is wrong, and where: "vision.mean.1".
struct Refused {
  std::string where, why;
};

class Members;

// A value together with the way to it, which is spelled out only for an error. Parents must outlive their children.
class Reader {
 public:
  explicit Reader(const Value& value) : value_(&value) {}
  Reader(const Value& value, const Reader& parent, std::string_view key, int64_t index = -1)
      : value_(&value), parent_(&parent), key_(key), index_(index) {}

  [[noreturn]] void refuse(const std::string& why) const { throw Refused{where(), why}; }
  bool is_null() const { return value_->is_null(); }
  bool boolean() const;
  int64_t integer(int64_t low, int64_t high) const;  // high: not below 0
  uint64_t unsigned_integer() const;  // 0 to 2**64 - 1
  bool is_any_integer() const { return value_->is_number_integer() || value_->is_binary(); }  // of any size
  double number() const;              // finite; a whole number is one as well
  double number(double low, double high) const;
  const std::string& text(size_t most = SIZE_MAX) const;  // of so many characters
  void check_length(std::string_view text, size_t most) const;
  bool is_text() const { return value_->is_string(); }
  std::string choice(std::initializer_list<std::string_view> choices) const;
  const Array& array(size_t least = 0, size_t most = SIZE_MAX) const;
  const Object& object() const;
  // The object's values by key; a key that is not among `keys` is refused.
  Members members(std::initializer_list<std::string_view> keys) const;

  // A list whose elements `read` takes one by one.
  template <typename Read>
  auto list(Read read, size_t least = 0, size_t most = SIZE_MAX) const {
    std::vector<decltype(read(std::declval<const Reader&>()))> result;
    const Array& values = array(least, most);
    result.reserve(values.size());
    for (size_t i = 0; i < values.size(); i++) result.push_back(read(Reader(values[i], *this, {}, int64_t(i))));
    return result;
  }

 private:
  std::string where() const;
  const Value* value_;
  const Reader* parent_ = nullptr;
  std::string_view key_;
  int64_t index_ = -1;
};

class Members {
 public:
  Members(const Reader& reader, const Object& object) : reader_(&reader), object_(&object) {}
  Reader operator[](std::string_view key) const;  // refused where it is missing
  std::optional<Reader> optional(std::string_view key) const;

 private:
  const Reader* reader_;  // must outlive this and the readers of its values
  const Object* object_;
};

}  // namespace pocketvlm::json
