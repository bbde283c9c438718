// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <new>
#include <type_traits>
#include <vector>

#include "tokenfold/core/correlation.hpp"
#include "tokenfold/core/partition.hpp"
#include "tokenfold/core/types.hpp"

namespace tokenfold {

/// All scratch memory of the library: a stack of bytes that grows to what the largest call needs
/// and then stays. Keep one per thread and pass it to every call; after the first call with the
/// largest shape the library requests no further memory. Not thread-safe.
class Workspace {
 public:
  /// What the first two stages of the latest `Pipeline::plan` decided, to look at (scores, links).
  Partition partition;
  Correlation correlation;

  Workspace() = default;
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  Workspace(Workspace&&) = default;
  Workspace& operator=(Workspace&&) = default;

  /// Gives back, on destruction, everything taken since its construction. Frames nest like scopes.
  class Frame {
   public:
    explicit Frame(Workspace& workspace)
        : workspace_(workspace), block_(workspace.block_), used_(workspace.used_) {}
    ~Frame() {
      workspace_.block_ = block_;
      workspace_.used_ = used_;
      if (block_ == 0 && used_ == 0) {
        workspace_.join_blocks();
      }
    }
    Frame(const Frame&) = delete;
    Frame& operator=(const Frame&) = delete;

   private:
    Workspace& workspace_;
    std::size_t block_;
    std::size_t used_;
  };

  /// An uninitialised array of `count` elements, aligned for the widest vectors, valid until the
  /// enclosing `Frame` ends.
  template <class T>
  Span<T> take(Index count) {
    static_assert(std::is_trivially_destructible_v<T>);
    require(count >= 0, "workspace: negative count ", count);
    const std::size_t bytes = round_up(static_cast<std::size_t>(count) * sizeof(T));
    while (block_ < blocks_.size() && used_ + bytes > blocks_[block_].size) {
      ++block_;
      used_ = 0;
    }
    if (block_ == blocks_.size()) {
      add_block(std::max(bytes, smallest_block));
    }
    T* data = reinterpret_cast<T*>(blocks_[block_].bytes.get() + used_);
    used_ += bytes;
    peak_ = std::max(peak_, bytes_in_use());
    return {data, count};
  }

  /// `take`, filled with `value`.
  template <class T>
  Span<T> take_filled(Index count, T value) {
    const Span<T> span = take<T>(count);
    std::fill(span.begin(), span.end(), value);
    return span;
  }

  /// Bytes held.
  std::size_t capacity() const {
    std::size_t total = 0;
    for (const Block& block : blocks_) {
      total += block.size;
    }
    return total;
  }
  /// The most bytes that were ever in use at once.
  std::size_t peak() const { return peak_; }

 private:
  static constexpr std::size_t alignment = 64;
  static constexpr std::size_t smallest_block = std::size_t{1} << 16;

  struct Release {
    void operator()(std::byte* bytes) const {
      ::operator delete[](bytes, std::align_val_t{alignment});
    }
  };
  struct Block {
    std::unique_ptr<std::byte[], Release> bytes;
    std::size_t size = 0;
  };

  static std::size_t round_up(std::size_t bytes) {
    return (bytes + alignment - 1) / alignment * alignment;
  }
  std::size_t bytes_in_use() const {
    std::size_t total = used_;
    for (std::size_t i = 0; i < block_; ++i) {
      total += blocks_[i].size;
    }
    return total;
  }
  void add_block(std::size_t bytes) {
    auto* raw = static_cast<std::byte*>(::operator new[](bytes, std::align_val_t{alignment}));
    blocks_.push_back({std::unique_ptr<std::byte[], Release>(raw), bytes});
  }
  /// A call that overflowed into further blocks leaves one block that would have been large enough.
  void join_blocks() {
    if (blocks_.size() > 1) {
      const std::size_t total = capacity();
      blocks_.clear();
      add_block(total);
    }
  }

  std::vector<Block> blocks_;
  std::size_t block_ = 0;
  std::size_t used_ = 0;
  std::size_t peak_ = 0;
};

}  // namespace tokenfold
