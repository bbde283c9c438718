// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <type_traits>
#include <vector>

#include "tokenfold/core/any_executor.hpp"
#include "tokenfold/core/correlation.hpp"
#include "tokenfold/core/layout.hpp"
#include "tokenfold/core/partition.hpp"
#include "tokenfold/core/types.hpp"

namespace tokenfold {

/// What a call may use: scratch memory, and threads if it is given some.
///
/// The memory is a stack of bytes that grows to what the largest call needs and then stays. Keep
/// one workspace per thread and pass it to every call; after the first call with the largest shape
/// the library requests no further memory. Not thread-safe.
///
/// What a method's `Memory:` says is the `peak()` of its `plan`, without an executor, attention
/// coming from queries and keys. Its numbers are of the type that sums are kept in, double for
/// double tokens, else float; 16-bit tokens may take 64 rows of numbers more, of features or keys. P
/// rows of the sequence hold N visual tokens of D channels, of which K stay; attention has H heads
/// of d channels. Arrays begin at multiples of 64 bytes. Not in it are the vectors of `partition`
/// (up to 16 bytes a visual token), of `correlation` (8 bytes a source, 12 a link) and of the plan
/// (8 bytes an output row, 12 an entry of W), which keep their memory too.
class Workspace {
 public:
  /// What the first two stages of the latest `Pipeline::plan` decided, to look at (scores, links).
  Partition partition;
  Correlation correlation;
  /// What filter::PerFrame asks its filter and is answered, one frame at a time.
  TokenLayout frame_layout;
  Partition frame_partition;

  Workspace() = default;
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  Workspace(Workspace&&) = default;
  Workspace& operator=(Workspace&&) = default;

  /// Lets the calls that get this workspace spread their products and passes over `executor`, which
  /// must outlive them; what comes out has the same bits. For one large item; the items of a
  /// `Batch` are spread as they are.
  template <Executor E>
  void run_on(const E& executor) {
    executor_ = AnyExecutor(executor);
  }
  template <Executor E>
  void run_on(const E&& temporary) = delete;
  /// body(i) for every i in [0, count), on that executor; a body takes no memory from here and does
  /// not throw.
  template <class Body>
  void for_each(Index count, const Body& body) const {
    executor_(count, body);
  }
  /// How many bodies run at once, at most.
  Index concurrency() const { return executor_.concurrency(); }

  /// Gives back, on destruction, everything taken since its construction. Frames nest like scopes.
  class Frame {
   public:
    explicit Frame(Workspace& workspace)
        : workspace_(workspace),
          block_(workspace.block_),
          used_(workspace.used_),
          in_use_(workspace.in_use_) {}
    ~Frame() {
      workspace_.block_ = block_;
      workspace_.used_ = used_;
      workspace_.in_use_ = in_use_;
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
    std::size_t in_use_;
  };

  /// An uninitialised array of `count` elements, aligned for the widest vectors, valid until the
  /// enclosing `Frame` ends.
  template <class T>
  Span<T> take(Index count) {
    static_assert(std::is_trivially_destructible_v<T>);
    require(count >= 0, "workspace: negative count ", count);
    const std::size_t bytes = round_up(static_cast<std::size_t>(count) * sizeof(T));
    while (block_ < blocks_.size() && used_ + bytes > size_of(blocks_[block_])) {
      ++block_;
      used_ = 0;
    }
    if (block_ == blocks_.size()) {
      add_block(std::max(bytes, smallest_block));
    }
    T* data = reinterpret_cast<T*>(blocks_[block_].data() + used_ / alignment);
    used_ += bytes;
    in_use_ += bytes;
    peak_ = std::max(peak_, in_use_);
    return {data, count};
  }

  /// `take`, filled with `value`.
  template <class T>
  Span<T> take_filled(Index count, T value) {
    const Span<T> span = take<T>(count);
    std::fill(span.begin(), span.end(), value);
    return span;
  }

  /// Bytes held: after a call that needed more than before, no more than `peak()` or 64 KiB.
  std::size_t capacity() const {
    std::size_t total = 0;
    for (const Block& block : blocks_) {
      total += size_of(block);
    }
    return total;
  }
  /// The most bytes that were ever in use at once.
  std::size_t peak() const { return peak_; }

 private:
  static constexpr std::size_t alignment = 64;
  static constexpr std::size_t smallest_block = std::size_t{1} << 16;

  struct alignas(alignment) Chunk {
    std::byte bytes[alignment];
  };
  using Block = std::vector<Chunk>;

  static std::size_t size_of(const Block& block) { return block.size() * alignment; }
  static std::size_t round_up(std::size_t bytes) {
    return (bytes + alignment - 1) / alignment * alignment;
  }
  void add_block(std::size_t bytes) { blocks_.emplace_back(bytes / alignment); }
  /// A call that overflowed into further blocks leaves one block that would have been large enough.
  void join_blocks() {
    if (blocks_.size() > 1) {
      blocks_.clear();
      add_block(peak_);
    }
  }

  AnyExecutor executor_;
  std::vector<Block> blocks_;
  std::size_t block_ = 0;
  std::size_t used_ = 0;    // of the block
  std::size_t in_use_ = 0;  // of all blocks
  std::size_t peak_ = 0;
};

}  // namespace tokenfold
