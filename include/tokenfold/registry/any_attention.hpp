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

  AttentionKind kind() const { return ask().kind(); }
  Range queries() const { return ask().queries(); }
  Range keys() const { return ask().keys(); }
  void received(Range queries, Span<const Answer> weights, Range keys, Span<Answer> out,
                Workspace& workspace) const {
    ask().received(queries, weights, keys, out, workspace);
  }
  void given(Range queries, Range keys, Span<const Answer> weights, Span<Answer> out,
             Workspace& workspace) const {
    ask().given(queries, keys, weights, out, workspace);
  }
  void rows(Span<const Token> rows, Range keys, MatrixView<Answer> out,
            Workspace& workspace) const {
    ask().rows(rows, keys, out, workspace);
  }

  /// What only some sources can do; the others throw.
  Index heads() const { return ask().heads(); }
  AnyAttention head(Index h) const { return ask().head(h); }
  AnyAttention as_single_head() const { return ask().as_single_head(); }
  /// The keys of the source, if it has some of type T; else none.
  HeadsView<const T> key_heads() const {
    return empty() ? HeadsView<const T>() : ask().key_heads();
  }

 private:
  struct Base {
    virtual ~Base() = default;
    virtual AttentionKind kind() const = 0;
    virtual Range queries() const = 0;
    virtual Range keys() const = 0;
    virtual void received(Range queries, Span<const Answer> weights, Range keys, Span<Answer> out,
                          Workspace& workspace) const = 0;
    virtual void given(Range queries, Range keys, Span<const Answer> weights, Span<Answer> out,
                       Workspace& workspace) const = 0;
    virtual void rows(Span<const Token> rows, Range keys, MatrixView<Answer> out,
                      Workspace& workspace) const = 0;
    virtual Index heads() const = 0;
    virtual AnyAttention head(Index h) const = 0;
    virtual AnyAttention as_single_head() const = 0;
    virtual HeadsView<const T> key_heads() const = 0;
  };

  template <class A>
  struct Source final : Base {
    explicit Source(const A& given) : source(given) {}

    AttentionKind kind() const override { return source.kind(); }
    Range queries() const override { return source.queries(); }
    Range keys() const override { return source.keys(); }
    void received(Range queries, Span<const Answer> weights, Range keys, Span<Answer> out,
                  Workspace& workspace) const override {
      source.received(queries, weights, keys, out, workspace);
    }
    void given(Range queries, Range keys, Span<const Answer> weights, Span<Answer> out,
               Workspace& workspace) const override {
      source.given(queries, keys, weights, out, workspace);
    }
    void rows(Span<const Token> rows, Range keys, MatrixView<Answer> out,
              Workspace& workspace) const override {
      source.rows(rows, keys, out, workspace);
    }
    Index heads() const override {
      if constexpr (requires { source.heads(); }) {
        return source.heads();
      } else {
        fail("attention: this source does not say how many heads it has");
      }
    }
    AnyAttention head([[maybe_unused]] Index h) const override {
      if constexpr (requires { source.head(h); }) {
        return source.head(h);
      } else {
        fail("attention: this source cannot be split into heads");
      }
    }
    AnyAttention as_single_head() const override {
      if constexpr (requires { source.as_single_head(); }) {
        return source.as_single_head();
      } else {
        require(heads() == 1,
                "attention as one head of the full width needs queries and keys, got ", heads(),
                " heads of attention; the option heads=mean averages them");
        return AnyAttention(source);
      }
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

    const A source;
  };

  const Base& ask() const {
    require(source_ != nullptr, "attention: this method reads attention, but none was given");
    return *source_;
  }

  std::shared_ptr<const Base> source_;
};

}  // namespace tokenfold
