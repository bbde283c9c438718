// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <utility>

#include "tokenfold/core/types.hpp"

namespace tokenfold {

/// Items of a batch that are made when asked for, instead of a container of them: item i is
/// `make(i)`. Asked for several times and from several threads at once.
///
///   tf::ItemsFrom(5, [&](tf::Index i) { return tf::Sequence(layout, attention_of(i)); })
template <class Make>
class ItemsFrom {
 public:
  ItemsFrom(Index count, Make make) : count_(count), make_(std::move(make)) {
    require(count >= 0, "batch: negative item count ", count);
  }

  Index size() const { return count_; }
  decltype(auto) operator[](Index i) const { return make_(i); }

 private:
  Index count_;
  Make make_;
};

/// What a batch is made of: a `std::vector`, `std::array`, `Span` or `ItemsFrom`.
template <class C>
concept Items = requires(C& items) {
  { items.size() } -> std::convertible_to<std::size_t>;
  items[items.size()];
};

namespace detail {

template <Items C>
Index item_count(const C& items) {
  return static_cast<Index>(items.size());
}
template <Items C>
decltype(auto) item(C& items, Index i) {
  return items[static_cast<decltype(items.size())>(i)];
}

}  // namespace detail
}  // namespace tokenfold
