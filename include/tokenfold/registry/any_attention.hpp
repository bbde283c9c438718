// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <utility>

#include "tokenfold/core/attention.hpp"

namespace tokenfold {

/// Any attention source over tokens of type T, chosen at run time. Copies share the source. Empty
/// by default: then every question throws.
template <Scalar T>
class AnyAttention {
 public:
  using Answer = Accumulator<T>;

  AnyAttention() = default;

  template <AttentionSource A>
  requires(!std::same_as<A, AnyAttention> && std::same_as<typename A::Answer, Answer>)
      AnyAttention(const A& source)
      : source_(std::make_shared<const Source<A>>(source)) {}

  bool empty() const { return source_ == nullptr; }

  AttentionKind kind() const { return ask().kind(part_); }
  Range queries() const { return ask().queries(part_); }
  Range keys() const { return ask().keys(part_); }
  void received(Range queries, Span<const Answer> weights, Range keys, Span<Answer> out,
                Workspace& workspace) const {
    ask().received(part_, queries, weights, keys, out, workspace);
  }
  void given(Range queries, Range keys, Span<const Answer> weights, Span<Answer> out,
             Workspace& workspace) const {
    ask().given(part_, queries, keys, weights, out, workspace);
  }
  void rows(Span<const Token> rows, Range keys, MatrixView<Answer> out,
            Workspace& workspace) const {
    ask().rows(part_, rows, keys, out, workspace);
  }

  /// What only some sources can do; the others throw.
  Index heads() const { return ask().heads(part_); }
  AnyAttention head(Index h) const { return part({.head = h}); }
  AnyAttention as_single_head() const { return part({.single = true}); }
  /// The keys of the source, if it has some of type T; else none.
  HeadsView<const T> key_heads() const {
    return empty() ? HeadsView<const T>() : ask().key_heads();
  }

 private:
  /// Which view of the source answers: all of it, one head, or all heads as one.
  struct Part {
    Index head = -1;
    bool single = false;
  };

  struct Base {
    virtual ~Base() = default;
    virtual AttentionKind kind(Part part) const = 0;
    virtual Range queries(Part part) const = 0;
    virtual Range keys(Part part) const = 0;
    virtual void received(Part part, Range queries, Span<const Answer> weights, Range keys,
                          Span<Answer> out, Workspace& workspace) const = 0;
    virtual void given(Part part, Range queries, Range keys, Span<const Answer> weights,
                       Span<Answer> out, Workspace& workspace) const = 0;
    virtual void rows(Part part, Span<const Token> rows, Range keys, MatrixView<Answer> out,
                      Workspace& workspace) const = 0;
    virtual Index heads(Part part) const = 0;
    virtual HeadsView<const T> key_heads() const = 0;
  };

  template <class A>
  struct Source final : Base {
    explicit Source(const A& given) : source(given) {}

    AttentionKind kind(Part part) const override {
      return with(part, [](const auto& s) { return s.kind(); });
    }
    Range queries(Part part) const override {
      return with(part, [](const auto& s) { return s.queries(); });
    }
    Range keys(Part part) const override {
      return with(part, [](const auto& s) { return s.keys(); });
    }
    void received(Part part, Range queries, Span<const Answer> weights, Range keys,
                  Span<Answer> out, Workspace& workspace) const override {
      with(part, [&](const auto& s) { s.received(queries, weights, keys, out, workspace); });
    }
    void given(Part part, Range queries, Range keys, Span<const Answer> weights, Span<Answer> out,
               Workspace& workspace) const override {
      with(part, [&](const auto& s) { s.given(queries, keys, weights, out, workspace); });
    }
    void rows(Part part, Span<const Token> rows, Range keys, MatrixView<Answer> out,
              Workspace& workspace) const override {
      with(part, [&](const auto& s) { s.rows(rows, keys, out, workspace); });
    }
    Index heads(Part part) const override {
      return with(part, [](const auto& s) { return heads_of(s); });
    }
    HeadsView<const T> key_heads() const override {
      if constexpr (requires {
                      { source.key_heads() } -> std::same_as<HeadsView<const T>>;
                    }) {
        return source.key_heads();
      } else {
        return {};
      }
    }

    template <class S>
    static Index heads_of(const S& s) {
      if constexpr (requires { s.heads(); }) {
        return s.heads();
      } else {
        fail("attention: this source does not say how many heads it has");
      }
    }
    /// use(that part of the source).
    template <class Use>
    auto with(Part part, const Use& use) const {
      if (part.single) {
        if constexpr (requires { source.as_single_head(); }) {
          return use(source.as_single_head());
        } else {
          require(heads_of(source) == 1,
                  "attention as one head of the full width needs queries and keys, got ",
                  heads_of(source), " heads of attention; the option heads=mean averages them");
        }
      }
      if (part.head >= 0) {
        if constexpr (requires { source.head(part.head); }) {
          return use(source.head(part.head));
        } else {
          fail("attention: this source cannot be split into heads");
        }
      }
      return use(source);
    }

    const A source;
  };

  const Base& ask() const {
    require(source_ != nullptr, "attention: this method reads attention, but none was given");
    return *source_;
  }
  AnyAttention part(Part part) const {
    AnyAttention result = *this;
    if (part_.head >= 0 || part_.single) {  // is one head
      require(part.head <= 0, "attention: no head ", part.head, " of one head");
      return result;
    }
    ask().kind(part);  // throws if there is no such part
    result.part_ = part;
    return result;
  }

  std::shared_ptr<const Base> source_;
  Part part_;
};

}  // namespace tokenfold
