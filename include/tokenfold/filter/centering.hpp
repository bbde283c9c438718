// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "tokenfold/core/options.hpp"
#include "tokenfold/core/similarity.hpp"

namespace tokenfold::filter {

/// How the distinctness g_i of a token, minus its mean cosine to all others, becomes a weight.
enum class Distinctness {
  none,     ///< 1 for every token
  min_max,  ///< (g − min g) / (max g − min g + 1e-6)
  sigmoid,  ///< sigmoid((g − mean g) / (std g + 1e-6)), std over N − 1
};
constexpr auto enum_names(Distinctness) {
  return enum_names_of<Distinctness>({{"none", Distinctness::none},
                                      {"min_max", Distinctness::min_max},
                                      {"sigmoid", Distinctness::sigmoid}});
}

/// Cen-Prune (arXiv 2608.30263): what diversity filters compare tokens by. Visual tokens crowd into
/// a cone, where cosines tell little but near-duplicates apart; centred tokens spread out,
///
///   x̄_i = x_i − (1/N) Σ_j x_j,   S̄_ij = cos(x̄_i, x̄_j)
///
/// and a weight g̃_i from g_i = −(1/(N−1)) Σ_{j≠i} cos(x_i, x_j), uncentred, keeps what centring
/// alone would lose: that a token near the mean is common. Each part can be had without the others.
///
/// Tokens that are not finite count in no mean. A token that equals the mean (up to rounding) has
/// no direction: S̄ = 0. If all g_i are equal (up to rounding), all g̃_i are.
/// Cost: 2–3 passes over the tokens and, if coordinates change, a copy of them, [N × D].
struct Centering {
  /// Subtract the mean token.
  bool center = false;
  Distinctness distinctness = Distinctness::none;
  /// Divide each channel by its standard deviation over the tokens, for S̄ and g both, where few
  /// channels carry nearly all variance (Qwen's tokens before the merger). A channel that is the
  /// same in all tokens is left out.
  bool standardize = false;

  template <class Visit>
  void options(Visit&& visit) {
    visit("center", center, "compare tokens without their mean (Cen-Prune)");
    visit("distinctness", distinctness, "weight from the mean cosine to all others (Cen-Prune)");
    visit("standardize", standardize, "divide channels by their standard deviation (Cen-Prune)");
  }
};

}  // namespace tokenfold::filter

namespace tokenfold::detail {

/// How small a share of its terms a difference may be before it is called rounding.
template <class T>
inline constexpr double rounding_share = 16 *
                                         static_cast<double>(std::numeric_limits<T>::epsilon());

/// out[i] = −(1/(n−1)) Σ_{j≠i} cos(x_i, x_j) over the n finite rows; NaN for the others. In O(N·D):
/// the sum is the product of the row's direction with the sum of all directions.
template <class T>
void mean_distances(const CosineRows<T>& cosines, Span<double> out, Workspace& workspace) {
  using Acc = Accumulator<T>;
  Workspace::Frame frame(workspace);
  const MatrixView<const T> x = cosines.matrix();
  const Span<Acc> inverse = workspace.take<Acc>(x.rows());
  Index n = 0;
  for (Index i = 0; i < x.rows(); ++i) {
    inverse[i] = cosines.inverse_norm(i);
    n += cosines.valid(i) ? 1 : 0;
  }
  const Span<Acc> sum = workspace.take<Acc>(x.cols());
  const Span<Acc> dots = workspace.take<Acc>(x.rows());
  weighted_row_sum<T>(x, Span<const Acc>(inverse.data(), inverse.size()), sum, workspace);
  row_dot_products<T>(x, Span<const Acc>(sum.data(), sum.size()), dots, workspace);
  const double others = static_cast<double>(std::max<Index>(n - 1, 1));
  for (Index i = 0; i < x.rows(); ++i) {
    const double all = static_cast<double>(dots[i]) * static_cast<double>(inverse[i]);
    const double own = inverse[i] > 0 ? 1 : 0;
    out[i] = cosines.valid(i) ? (own - (own > 0 ? all : 0)) / others
                              : std::numeric_limits<double>::quiet_NaN();
  }
}

/// g̃ from g in place; `rounding`: below it, g does not differ.
inline void distinctness_weights(filter::Distinctness rule, double rounding, Span<double> g) {
  constexpr double epsilon = 1e-6;
  double low = std::numeric_limits<double>::infinity();
  double high = -low;
  double sum = 0;
  double n = 0;
  for (const double value : g) {
    if (std::isfinite(value)) {
      low = std::min(low, value);
      high = std::max(high, value);
      sum += value;
      ++n;
    }
  }
  if (!(high - low > rounding)) {
    std::fill(g.begin(), g.end(), 1.0);
    return;
  }
  if (rule == filter::Distinctness::min_max) {
    for (double& value : g) {
      value = (value - low) / (high - low + epsilon);
    }
    return;
  }
  const double mean = sum / n;
  double squares = 0;
  for (const double value : g) {
    squares += std::isfinite(value) ? (value - mean) * (value - mean) : 0;
  }
  const double deviation = std::sqrt(squares / (n - 1));  // n ≥ 2, as some differ
  for (double& value : g) {
    value = 1 / (1 + std::exp(-(value - mean) / (deviation + epsilon)));
  }
}

/// Per channel, over the finite rows: the mean, and the factor that standardises it.
struct ChannelScale {
  Span<double> mean;
  Span<double> factor;
};

template <class T>
ChannelScale channel_scale(const CosineRows<T>& rows, bool standardize, Workspace& workspace) {
  const MatrixView<const T> x = rows.matrix();
  const ChannelScale scale{workspace.take_filled<double>(x.cols(), 0),
                           workspace.take_filled<double>(x.cols(), standardize ? 0 : 1)};
  auto mean = as_vector<DoubleFor<T>>(scale.mean);
  auto factor = as_vector<DoubleFor<T>>(scale.factor);
  const auto row = [&](Index i) {
    return ConstVectorMap<T>(x.row(i), x.cols()).template cast<double>();
  };
  double n = 0;
  for (Index i = 0; i < x.rows(); ++i) {
    if (rows.valid(i)) {
      mean += row(i);
      ++n;
    }
  }
  mean /= std::max(n, 1.0);
  if (standardize) {
    for (Index i = 0; i < x.rows(); ++i) {
      if (rows.valid(i)) {
        factor += (row(i) - mean).cwiseAbs2();
      }
    }
    for (Index c = 0; c < x.cols(); ++c) {
      const double deviation = std::sqrt(scale.factor[c] / std::max(n, 1.0));
      const bool varies = deviation > rounding_share<double> * std::abs(scale.mean[c]);
      scale.factor[c] = varies ? 1 / deviation : 0;
    }
  }
  return scale;
}

/// out_i = (x_i − [center] mean) · factor, channel by channel, in double before it is rounded.
template <class T>
void rescale_rows(MatrixView<const T> x, const ChannelScale& scale, bool center,
                  MatrixView<Accumulator<T>> out) {
  const auto mean = as_vector<DoubleFor<T>>(scale.mean);
  const auto factor = as_vector<DoubleFor<T>>(scale.factor);
  const double common = center ? mean.cwiseProduct(factor).norm() : 0;
  for (Index i = 0; i < x.rows(); ++i) {
    const auto row = ConstVectorMap<T>(x.row(i), x.cols()).template cast<double>();
    const auto own = (row - (center ? 1.0 : 0.0) * mean).cwiseProduct(factor);
    VectorMap<Accumulator<T>> to(out.row(i), out.cols());
    if (own.norm() <= rounding_share<double> * common) {
      to.setZero();  // the mean itself, but for rounding: no direction
    } else {
      to = own.template cast<Accumulator<T>>();
    }
  }
}

/// Calls `use(cosines, weights)` with the cosines of the coordinates that `centering` asks for and
/// with g̃ by ordinal (empty: all 1). `plain`: the cosines of the tokens as they are.
template <class T, class Use>
void with_centering(const filter::Centering& centering, const CosineRows<T>& plain,
                    Workspace& workspace, Use&& use) {
  using Acc = Accumulator<T>;
  Workspace::Frame frame(workspace);
  const MatrixView<const T> x = plain.matrix();
  const bool weighted = centering.distinctness != filter::Distinctness::none;
  const Span<double> weights = workspace.take<double>(weighted ? x.rows() : 0);
  const Span<const double> weights_read(weights.data(), weights.size());
  const auto weigh = [&](const auto& cosines) {
    if (weighted) {
      mean_distances(cosines, weights, workspace);
      distinctness_weights(centering.distinctness, rounding_share<Acc>, weights);
    }
  };
  if (!centering.center && !centering.standardize) {
    weigh(plain);
    use(plain, weights_read);
    return;
  }
  const ChannelScale scale = channel_scale(plain, centering.standardize, workspace);
  const MatrixView<Acc> copy(workspace.take<Acc>(x.rows() * x.cols()).data(), x.rows(), x.cols());
  if (centering.standardize && weighted) {
    Workspace::Frame inner(workspace);
    rescale_rows(x, scale, false, copy);
    weigh(CosineRows<Acc>(MatrixView<const Acc>(copy), workspace));
  } else {
    weigh(plain);
  }
  rescale_rows(x, scale, centering.center, copy);
  use(CosineRows<Acc>(MatrixView<const Acc>(copy), workspace), weights_read);
}

}  // namespace tokenfold::detail
