// SPDX-License-Identifier: Apache-2.0
//
// A small reader and writer of the safetensors format, for the examples and tests.
//
//   8 bytes   header length N, unsigned, little endian
//   N bytes   JSON object: name -> {dtype, shape, data_offsets}, and "__metadata__"
//   the rest  the tensors' bytes, without gaps, little endian
//
// A file is untrusted: whatever is wrong with it ends in a std::runtime_error. The whole header is
// checked against the file's real size before any tensor is allocated, so that what is allocated
// for tensors never exceeds that size.

#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <map>
#include <new>
#include <nlohmann/json.hpp>
#include <set>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <tuple>
#include <utility>
#include <vector>

namespace safetensors {

static_assert(std::endian::native == std::endian::little, "values are copied without byte swaps");
static_assert(std::numeric_limits<float>::is_iec559 && std::numeric_limits<double>::is_iec559);
static_assert(sizeof(std::size_t) == 8, "offsets are 64-bit");

enum class Dtype {
  boolean,
  u8,
  i8,
  f8_e5m2,
  f8_e4m3,
  u16,
  i16,
  f16,
  bf16,
  u32,
  i32,
  f32,
  u64,
  i64,
  f64,
};

// The reference implementation's limit.
inline constexpr std::uint64_t max_header_bytes = 100'000'000;

namespace detail {

struct DtypeInfo {
  Dtype dtype;
  std::string_view name;
  std::size_t bytes;
};

inline constexpr std::array<DtypeInfo, 15> dtypes{{
    {Dtype::boolean, "BOOL", 1},
    {Dtype::u8, "U8", 1},
    {Dtype::i8, "I8", 1},
    {Dtype::f8_e5m2, "F8_E5M2", 1},
    {Dtype::f8_e4m3, "F8_E4M3", 1},
    {Dtype::u16, "U16", 2},
    {Dtype::i16, "I16", 2},
    {Dtype::f16, "F16", 2},
    {Dtype::bf16, "BF16", 2},
    {Dtype::u32, "U32", 4},
    {Dtype::i32, "I32", 4},
    {Dtype::f32, "F32", 4},
    {Dtype::u64, "U64", 8},
    {Dtype::i64, "I64", 8},
    {Dtype::f64, "F64", 8},
}};

[[noreturn]] inline void fail(const std::string& what) { throw std::runtime_error(what); }

inline const DtypeInfo& info(Dtype dtype) {
  for (const DtypeInfo& entry : dtypes) {
    if (entry.dtype == dtype) return entry;
  }
  fail("not a Dtype: " + std::to_string(static_cast<int>(dtype)));
}

// Names come from the file: escaped and shortened, they are safe to print.
inline std::string printable(std::string_view text) {
  constexpr std::size_t longest = 100;
  const bool cut = text.size() > longest;
  return nlohmann::json(text.substr(0, longest))
             .dump(-1, ' ', true, nlohmann::json::error_handler_t::replace) +
         (cut ? "..." : "");
}

inline std::int64_t checked_product(std::int64_t a, std::int64_t b) {
  if (a != 0 && b > std::numeric_limits<std::int64_t>::max() / a) fail("the shape overflows");
  return a * b;
}

// Overflow is checked without the zeros, so that the answer does not depend on the dimensions'
// order and strides computed from an accepted shape cannot overflow either.
inline std::int64_t element_count(std::span<const std::int64_t> shape, std::size_t item_bytes) {
  std::int64_t count = static_cast<std::int64_t>(item_bytes);
  bool empty = false;
  for (const std::int64_t dim : shape) {
    if (dim < 0) fail("the shape has a negative dimension");
    if (dim == 0) {
      empty = true;
    } else {
      count = checked_product(count, dim);
    }
  }
  return empty ? 0 : count / static_cast<std::int64_t>(item_bytes);
}

// Selects with masks instead of branches, so that loops over it vectorise, on any machine.
inline float float_from_f16(std::uint16_t half) {
  const auto all_bits_if_less = [](std::uint32_t a, std::uint32_t b) {  // for a, b below 2^31
    return static_cast<std::uint32_t>(static_cast<std::int32_t>(a - b) >> 31);
  };
  const std::uint32_t sign = (half & 0x8000U) << 16;
  const std::uint32_t magnitude = (half & 0x7FFFU) << 13;
  const std::uint32_t rebias = (127U - 15U) << 23;
  // Infinite or not a number: the largest exponent becomes the largest again.
  const std::uint32_t special = ~all_bits_if_less(magnitude, 31U << 23) & rebias;
  // Zero or subnormal: with an exponent it is 2^-14 too much, which a float can lose exactly.
  constexpr std::uint32_t least = (127U - 14U) << 23;
  const float excess = std::bit_cast<float>(magnitude + least);
  const auto small = std::bit_cast<std::uint32_t>(excess - std::bit_cast<float>(least));
  const std::uint32_t subnormal = all_bits_if_less(magnitude, 1U << 23);
  return std::bit_cast<float>(sign | (subnormal & small) |
                              (~subnormal & (magnitude + rebias + special)));
}

inline float float_from_bf16(std::uint16_t brain) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(brain) << 16);
}

}  // namespace detail

inline std::string_view dtype_name(Dtype dtype) { return detail::info(dtype).name; }
inline std::size_t dtype_bytes(Dtype dtype) { return detail::info(dtype).bytes; }

inline Dtype dtype_from_name(std::string_view name) {
  for (const detail::DtypeInfo& entry : detail::dtypes) {
    if (entry.name == name) return entry.dtype;
  }
  detail::fail("unknown dtype " + detail::printable(name));
}

struct Tensor {
  Dtype dtype = Dtype::f32;
  std::vector<std::int64_t> shape;
  std::vector<std::byte> bytes;

  // The number of elements that the shape names; 1 for a scalar's empty shape.
  std::int64_t size() const { return detail::element_count(shape, dtype_bytes(dtype)); }

  // Throws unless `bytes` holds what shape and dtype say.
  void validate() const {
    const std::size_t want = static_cast<std::size_t>(size()) * dtype_bytes(dtype);
    if (bytes.size() != want) {
      detail::fail("shape and dtype take " + std::to_string(want) + " bytes, there are " +
                   std::to_string(bytes.size()));
    }
  }

  // F32, F16 and BF16 exactly, F64 rounded.
  std::vector<float> floats() const { return floating<float>("floats"); }

  // F64, F32, F16 and BF16, all exactly.
  std::vector<double> doubles() const { return floating<double>("doubles"); }

  // I64 and I32.
  std::vector<std::int64_t> int64s() const {
    const auto same = [](auto value) { return static_cast<std::int64_t>(value); };
    if (dtype == Dtype::i64) return convert<std::int64_t, std::int64_t>(same);
    if (dtype == Dtype::i32) return convert<std::int64_t, std::int32_t>(same);
    refuse("int64s");
  }

 private:
  [[noreturn]] void refuse(const std::string& what) const {
    detail::fail("a tensor of dtype " + std::string(dtype_name(dtype)) + " cannot be read as " +
                 what);
  }

  // Copies each value out, since the bytes need not be aligned.
  template <class To, class Stored, class Convert>
  std::vector<To> convert(Convert to) const {
    validate();
    std::vector<To> values(bytes.size() / sizeof(Stored));
    for (std::size_t i = 0; i < values.size(); ++i) {
      Stored stored;
      std::memcpy(&stored, bytes.data() + i * sizeof(Stored), sizeof(Stored));
      values[i] = static_cast<To>(to(stored));
    }
    return values;
  }

  template <class To>
  std::vector<To> floating(const char* what) const {
    const auto same = [](auto value) { return value; };
    if (dtype == Dtype::f32) return convert<To, float>(same);
    if (dtype == Dtype::f64) return convert<To, double>(same);
    if (dtype == Dtype::f16) return convert<To, std::uint16_t>(detail::float_from_f16);
    if (dtype == Dtype::bf16) return convert<To, std::uint16_t>(detail::float_from_bf16);
    refuse(what);
  }
};

namespace detail {

template <class T>
Tensor make_tensor(Dtype dtype, std::vector<std::int64_t> shape, std::span<const T> values) {
  Tensor tensor;
  tensor.dtype = dtype;
  tensor.shape = std::move(shape);
  const auto raw = std::as_bytes(values);
  tensor.bytes.assign(raw.begin(), raw.end());
  tensor.validate();
  return tensor;
}

}  // namespace detail

inline Tensor make(std::vector<std::int64_t> shape, std::span<const float> values) {
  return detail::make_tensor(Dtype::f32, std::move(shape), values);
}

inline Tensor make(std::vector<std::int64_t> shape, std::span<const std::int64_t> values) {
  return detail::make_tensor(Dtype::i64, std::move(shape), values);
}

struct File {
  std::map<std::string, Tensor> tensors;
  std::map<std::string, std::string> metadata;

  bool has(const std::string& name) const { return tensors.contains(name); }

  const Tensor& at(const std::string& name) const {
    const auto found = tensors.find(name);
    if (found != tensors.end()) return found->second;
    std::string message = "no tensor " + detail::printable(name) + "; there are:";
    constexpr std::size_t most = 100;
    std::size_t listed = 0;
    for (const auto& [other, tensor] : tensors) {
      if (listed == most) {
        message += " and " + std::to_string(tensors.size() - most) + " more";
        break;
      }
      message += (listed++ == 0 ? " " : ", ") + detail::printable(other);
    }
    detail::fail(tensors.empty() ? message + " none" : message);
  }
};

// A tensor that the header announces; its bytes are still unread.
struct Entry {
  std::string name;
  Tensor tensor;
  std::int64_t begin = 0;  // of its bytes, counted from the end of the header
  std::int64_t end = 0;
};

struct Header {
  std::vector<Entry> entries;  // in the order of their bytes, which they cover without gaps
  std::map<std::string, std::string> metadata;
};

using detail::float_from_bf16;
using detail::float_from_f16;
using detail::printable;

// For untrusted text, which messages call `what`: throws unless it is valid JSON that is not nested
// deeply and has no key twice in an object.
inline nlohmann::json parse_json(std::string_view text, const std::string& what) {
  using nlohmann::json;
  // nlohmann-json skips a byte order mark and takes NUL for the end; the format allows neither.
  const std::string invalid = what + " is not valid JSON";
  if (text.find('\0') != std::string_view::npos) detail::fail(invalid + ": it has a NUL");
  if (text.starts_with("\xEF\xBB\xBF")) detail::fail(invalid + ": byte order mark");

  // Left alone, the parser would keep the last of duplicated keys and nest without bound.
  constexpr std::size_t max_depth = 8;
  std::vector<std::set<std::string>> open;
  const auto watch = [&open, &what](int, json::parse_event_t event, const json& value) {
    switch (event) {
      case json::parse_event_t::object_start:
      case json::parse_event_t::array_start:
        if (open.size() == max_depth) detail::fail(what + " is nested too deeply");
        open.emplace_back();
        break;
      case json::parse_event_t::object_end:
      case json::parse_event_t::array_end:
        open.pop_back();
        break;
      case json::parse_event_t::key: {
        const std::string& key = value.get_ref<const std::string&>();
        if (!open.back().insert(key).second) {
          detail::fail(what + " has a duplicated key " + detail::printable(key));
        }
        break;
      }
      case json::parse_event_t::value:
        break;
    }
    return true;
  };
  // The library's messages quote the input at any length; a position is enough.
  try {
    return json::parse(text.begin(), text.end(), watch);
  } catch (const json::parse_error& error) {
    detail::fail(invalid + ", near its byte " + std::to_string(error.byte));
  } catch (const json::exception& error) {
    detail::fail(invalid + ", nlohmann-json error " + std::to_string(error.id));
  }
}

namespace detail {

inline constexpr std::string_view metadata_key = "__metadata__";

// The header's length, from a file's first bytes and its size.
inline std::uint64_t header_length(std::span<const std::byte> start, std::uint64_t file_bytes) {
  if (file_bytes == 0) fail("the file is empty");
  std::uint64_t length = 0;
  if (start.size() < sizeof(length)) {
    fail("truncated: " + std::to_string(file_bytes) + " bytes cannot hold the header's length");
  }
  std::memcpy(&length, start.data(), sizeof(length));
  if (length > max_header_bytes) {
    fail("the header's length " + std::to_string(length) + " is over the limit of " +
         std::to_string(max_header_bytes) + " bytes");
  }
  if (length > file_bytes - sizeof(length)) {
    fail("the header's length " + std::to_string(length) + " reaches past the end of the file (" +
         std::to_string(file_bytes) + " bytes)");
  }
  return length;
}

inline std::vector<std::int64_t> parse_integers(const nlohmann::json& value, const char* field) {
  const std::string what = field;
  if (!value.is_array()) fail(what + " is not an array");
  std::vector<std::int64_t> integers;
  integers.reserve(value.size());
  for (const nlohmann::json& item : value) {
    // An integer beyond 64 bits has become a floating-point number here.
    if (!item.is_number_integer()) fail(what + " has an item that is not a 64-bit integer");
    if (!item.is_number_unsigned() && item.get<std::int64_t>() < 0) {
      fail(what + " has a negative item");
    }
    if (item.get<std::uint64_t>() > std::uint64_t{std::numeric_limits<std::int64_t>::max()}) {
      fail(what + " has an item that is too large");
    }
    integers.push_back(item.get<std::int64_t>());
  }
  return integers;
}

inline Entry parse_entry(const std::string& name, const nlohmann::json& value,
                         std::uint64_t data_bytes) {
  if (!value.is_object()) fail("its entry is not an object");
  for (const char* field : {"dtype", "shape", "data_offsets"}) {
    if (!value.contains(field)) fail(std::string(field) + " is missing");
  }
  if (!value["dtype"].is_string()) fail("dtype is not a string");

  Entry entry;
  entry.name = name;
  entry.tensor.dtype = dtype_from_name(value["dtype"].get_ref<const std::string&>());
  entry.tensor.shape = parse_integers(value["shape"], "shape");
  const std::vector<std::int64_t> offsets = parse_integers(value["data_offsets"], "data_offsets");
  if (offsets.size() != 2) fail("data_offsets does not have 2 items");
  entry.begin = offsets[0];
  entry.end = offsets[1];

  const std::string range =
      "data_offsets [" + std::to_string(entry.begin) + ", " + std::to_string(entry.end) + "]";
  if (entry.begin > entry.end) fail(range + " are reversed");
  if (static_cast<std::uint64_t>(entry.end) > data_bytes) {
    fail(range + " are out of range: the file has " + std::to_string(data_bytes) +
         " bytes of data");
  }
  const std::int64_t want =
      entry.tensor.size() * static_cast<std::int64_t>(dtype_bytes(entry.tensor.dtype));
  if (entry.end - entry.begin != want) {
    fail(range + " do not match shape and dtype, which take " + std::to_string(want) + " bytes");
  }
  return entry;
}

inline Header parse_header(std::string_view text, std::uint64_t data_bytes) {
  const nlohmann::json root = parse_json(text, "the header");
  if (!root.is_object()) fail("the header is not a JSON object");

  Header header;
  for (const auto& [name, value] : root.items()) {
    if (name == metadata_key) {
      if (!value.is_object()) fail("__metadata__ is not an object");
      for (const auto& [key, item] : value.items()) {
        if (!item.is_string()) {
          fail("the value of " + printable(key) + " in __metadata__ is not a string");
        }
        header.metadata.emplace(key, item.get<std::string>());
      }
      continue;
    }
    try {
      header.entries.push_back(parse_entry(name, value, data_bytes));
    } catch (const std::runtime_error& error) {
      fail("tensor " + printable(name) + ": " + error.what());
    }
  }

  std::sort(header.entries.begin(), header.entries.end(), [](const Entry& a, const Entry& b) {
    return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
  });
  std::int64_t position = 0;
  const std::string* previous = nullptr;
  for (const Entry& entry : header.entries) {
    if (entry.begin < position) {
      fail("tensors " + printable(*previous) + " and " + printable(entry.name) + " overlap");
    }
    if (entry.begin > position) {
      fail("there is a gap before the data of tensor " + printable(entry.name));
    }
    position = entry.end;
    previous = &entry.name;
  }
  if (static_cast<std::uint64_t>(position) != data_bytes) {
    fail("no tensor covers the last " +
         std::to_string(data_bytes - static_cast<std::uint64_t>(position)) + " bytes");
  }
  return header;
}

inline std::string_view as_text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// `read(count)` gives the file's next `count` bytes, all of them, or throws.
template <class Read>
File read_file(std::uint64_t file_bytes, Read read) {
  const std::vector<std::byte> start = read(std::min<std::uint64_t>(file_bytes, 8));
  const std::uint64_t length = header_length(start, file_bytes);
  const std::vector<std::byte> text = read(length);
  Header header = parse_header(as_text(text), file_bytes - 8 - length);

  File file;
  file.metadata = std::move(header.metadata);
  for (Entry& entry : header.entries) {
    entry.tensor.bytes = read(static_cast<std::uint64_t>(entry.end - entry.begin));
    file.tensors.emplace(std::move(entry.name), std::move(entry.tensor));
  }
  return file;
}

}  // namespace detail

// The header of a whole file in memory (a mapped one, for instance), checked against its size. The
// tensors' data are the last bytes of the file, up to the end of the last entry.
inline Header read_header(std::span<const std::byte> file) {
  const std::uint64_t length =
      detail::header_length(file.first(std::min<std::size_t>(file.size(), 8)), file.size());
  return detail::parse_header(detail::as_text(file.subspan(8, length)), file.size() - 8 - length);
}

inline File parse(std::span<const std::byte> bytes) {
  return detail::read_file(bytes.size(), [rest = bytes](std::uint64_t count) mutable {
    if (count > rest.size()) detail::fail("truncated");
    const auto part = rest.first(count);
    rest = rest.subspan(count);
    return std::vector<std::byte>(part.begin(), part.end());
  });
}

// As parse(), with the path in front of every message.
inline File load(const std::filesystem::path& path) {
  try {
    // A pipe or a directory has no size to check the header against.
    std::error_code error;
    if (!std::filesystem::exists(path, error)) detail::fail("no such file");
    if (!std::filesystem::is_regular_file(path, error)) detail::fail("not a regular file");
    const std::uintmax_t size = std::filesystem::file_size(path, error);
    if (error) detail::fail("cannot tell the file's size: " + error.message());
    std::ifstream stream(path, std::ios::binary);
    if (!stream) detail::fail("cannot open the file");
    return detail::read_file(size, [&stream](std::uint64_t count) {
      std::vector<std::byte> bytes(count);
      const auto wanted = static_cast<std::streamsize>(count);
      if (wanted != 0 && !stream.read(reinterpret_cast<char*>(bytes.data()), wanted)) {
        detail::fail("truncated: the file ended while it was read");
      }
      return bytes;
    });
  } catch (const std::bad_alloc&) {
    detail::fail(path.string() + ": not enough memory");
  } catch (const std::runtime_error& error) {
    detail::fail(path.string() + ": " + error.what());
  }
}

// The same bytes for the same File: names sorted, the header padded with spaces to 8 bytes.
inline std::vector<std::byte> serialize(const File& file) {
  const auto text = [](const std::string& value) {
    try {
      return nlohmann::json(value).dump();
    } catch (const nlohmann::json::exception&) {
      detail::fail(detail::printable(value) + " is not UTF-8");
    }
  };
  std::string header = "{";
  const auto next = [&header]() { header += header.size() == 1 ? "" : ","; };
  if (!file.metadata.empty()) {
    next();
    header += text(std::string(detail::metadata_key)) + ":{";
    bool first = true;
    for (const auto& [key, value] : file.metadata) {
      header += (first ? "" : ",") + text(key) + ":" + text(value);
      first = false;
    }
    header += "}";
  }
  std::size_t offset = 0;
  for (const auto& [name, tensor] : file.tensors) {
    if (name == detail::metadata_key) detail::fail("a tensor cannot be named __metadata__");
    try {
      tensor.validate();
    } catch (const std::runtime_error& error) {
      detail::fail("tensor " + detail::printable(name) + ": " + error.what());
    }
    const std::size_t end = offset + tensor.bytes.size();
    next();
    header += text(name) + ":{\"dtype\":\"" + std::string(dtype_name(tensor.dtype)) +
              "\",\"shape\":" + nlohmann::json(tensor.shape).dump() + ",\"data_offsets\":[" +
              std::to_string(offset) + "," + std::to_string(end) + "]}";
    offset = end;
  }
  header += "}";
  header.resize((header.size() + 7) / 8 * 8, ' ');
  if (header.size() > max_header_bytes) detail::fail("the header would be over the limit");

  std::vector<std::byte> bytes(8 + header.size() + offset);
  auto end = bytes.begin();
  const auto append = [&end](std::span<const std::byte> part) {
    end = std::copy(part.begin(), part.end(), end);
  };
  const std::uint64_t length = header.size();
  append(std::as_bytes(std::span(&length, 1)));
  append(std::as_bytes(std::span(header)));
  for (const auto& [name, tensor] : file.tensors) append(tensor.bytes);
  return bytes;
}

inline void save(const std::filesystem::path& path, const File& file) {
  try {
    const std::vector<std::byte> bytes = serialize(file);
    std::ofstream stream(path, std::ios::binary | std::ios::trunc);
    if (!stream) detail::fail("cannot open the file for writing");
    stream.write(reinterpret_cast<const char*>(bytes.data()),
                 static_cast<std::streamsize>(bytes.size()));
    stream.close();
    if (!stream) detail::fail("cannot write the file");
  } catch (const std::runtime_error& error) {
    detail::fail(path.string() + ": " + error.what());
  }
}

}  // namespace safetensors
