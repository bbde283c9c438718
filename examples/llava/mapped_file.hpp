// SPDX-License-Identifier: Apache-2.0
// A file as bytes in memory: mapped where the system can, so that a checkpoint larger than memory
// opens at once and only what is used is ever read.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <memory>
#include <new>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#if __has_include(<sys/mman.h>)
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#endif

namespace llava {
namespace detail {

struct FileBytes {
  std::shared_ptr<const std::byte> data;  // what frees it goes with it
  std::size_t size = 0;
};

[[noreturn]] inline void fail(const std::filesystem::path& path, const std::string& what) {
  throw std::runtime_error(path.string() + ": " + what);
}

/// The portable way.
inline FileBytes read_bytes(const std::filesystem::path& path) {
  std::error_code error;
  const auto status = std::filesystem::status(path, error);
  if (!std::filesystem::exists(status)) fail(path, "no such file");
  // A pipe has no size, and might never end.
  if (!std::filesystem::is_regular_file(status)) fail(path, "not a regular file");
  const std::uintmax_t size = std::filesystem::file_size(path, error);
  if (error) fail(path, "cannot tell the file's size: " + error.message());
  if (size == 0) fail(path, "the file is empty");
  std::ifstream stream(path, std::ios::binary);
  if (!stream) fail(path, "cannot open the file");
  try {
    std::shared_ptr<std::byte[]> data(new std::byte[size]);
    if (!stream.read(reinterpret_cast<char*>(data.get()), static_cast<std::streamsize>(size))) {
      fail(path, "truncated: the file ended while it was read");
    }
    return {std::shared_ptr<const std::byte>(data, data.get()), size};
  } catch (const std::bad_alloc&) {
    fail(path, "not enough memory for its " + std::to_string(size) + " bytes");
  }
}

#if __has_include(<sys/mman.h>)
inline FileBytes map_bytes(const std::filesystem::path& path) {
  const auto refuse = [&path](const char* what) {
    fail(path, std::string(what) + ": " + std::generic_category().message(errno));
  };
  // A pipe would otherwise wait for somebody to write.
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0) refuse("cannot open the file");
  struct Closed {
    int descriptor;
    ~Closed() { ::close(descriptor); }  // the mapping does not need it
  } const closed{descriptor};
  struct stat status {};
  if (::fstat(descriptor, &status) != 0) refuse("cannot tell the file's size");
  if (!S_ISREG(status.st_mode)) fail(path, "not a regular file");
  if (status.st_size == 0) fail(path, "the file is empty");
  const auto size = static_cast<std::size_t>(status.st_size);
  void* const address = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, descriptor, 0);
  if (address == MAP_FAILED) refuse("cannot map the file");
  const auto unmap = [size](const std::byte* data) {
    ::munmap(const_cast<std::byte*>(data), size);
  };
  return {{static_cast<const std::byte*>(address), unmap}, size};
}
#endif

}  // namespace detail

/// Read-only. Whoever truncates the file while it is mapped ends the program (SIGBUS), as with
/// every mapped file.
class MappedFile {
 public:
  /// Throws std::runtime_error with the path unless it is a regular file of at least one byte.
  explicit MappedFile(std::filesystem::path path) : path_(std::move(path)) {
#if __has_include(<sys/mman.h>)
    file_ = detail::map_bytes(path_);
#else
    file_ = detail::read_bytes(path_);
#endif
  }

  const std::filesystem::path& path() const { return path_; }
  /// Stay where they are as long as *this, a copy of it or what it was moved to lives.
  std::span<const std::byte> bytes() const { return {file_.data.get(), file_.size}; }
  std::string_view text() const {
    return {reinterpret_cast<const char*>(file_.data.get()), file_.size};
  }

 private:
  std::filesystem::path path_;
  detail::FileBytes file_;
};

}  // namespace llava
