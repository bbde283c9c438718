// SPDX-License-Identifier: Apache-2.0
// A stand-in for a vision encoder: no weights, no training, yet tokens, queries and keys that
// behave as a ViT's do where token reduction cares. Alike patches attend to each other, and
// [CLS] attends to what is unusual. It is an analytic descriptor and understands nothing.
//
// Each of the 24 x 24 patches of 14 x 14 pixels becomes four heads of 16 features:
//
//   head  features
//   0     colour: mean L*a*b* (3), its spread (3), the mean around the patch (3), how far the patch
//         is from that in lightness and in chroma (2), and a weak code of where it lies (4)
//   1     lightness: log magnitudes of the 4 x 4 lowest DCT frequencies but the mean (15)
//   2     chroma: log magnitudes of 7 low DCT frequencies of a* and of b* (14), and of the rest (1)
//   3     edges: log strength in 7 directions, in the patch (7) and in it and its neighbours (7),
//         and how far one direction outweighs the others (1)
//   all   surprise: how far the patch is from the average patch in the features above (1)
//
// Magnitudes rather than signed coefficients, because an edge that moves by half a patch is still
// the same kind of edge. Every feature is standardised over the patches: that is the token.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>
#include <stdexcept>
#include <string>

#include "input.hpp"

namespace photo {

using Eigen::Index;
using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

/// One picture as a vision encoder hands it over. Row 0 is [CLS]; row 1 + y * grid_w + x is a
/// patch. Attention of head h is softmax(q·k / sqrt(dim)) over columns [h * dim, (h + 1) * dim).
struct Encoded {
  Index grid_h = 0;
  Index grid_w = 0;
  Index heads = 0;
  Index dim = 0;   // per head
  Matrix tokens;   // [1 + grid_h * grid_w, heads * dim]
  Matrix queries;  // the same shape
  Matrix keys;     // the same shape
};

namespace detail {

inline constexpr int kPatch = 14;
inline constexpr int kGrid = kInputSize / kPatch;
inline constexpr Index kHeads = 4;
inline constexpr Index kDim = 16;

/// sRGB to CIE L*a*b* (D65), where equal distances look about equally different.
inline std::array<Matrix, 3> lab_planes(const Image& image) {
  std::array<float, 256> linear{};
  for (std::size_t i = 0; i < linear.size(); ++i) {
    const float v = static_cast<float>(i) / 255.0F;
    linear[i] = v <= 0.04045F ? v / 12.92F : std::pow((v + 0.055F) / 1.055F, 2.4F);
  }
  const auto curve = [](float t) {
    return t > 0.008856F ? std::cbrt(t) : 7.787F * t + 16.0F / 116.0F;
  };
  std::array<Matrix, 3> planes;
  for (Matrix& plane : planes) plane.resize(image.height, image.width);
  for (int y = 0; y < image.height; ++y) {
    for (int x = 0; x < image.width; ++x) {
      const std::uint8_t* p = image.at(x, y);
      const float r = linear[p[0]];
      const float g = linear[p[1]];
      const float b = linear[p[2]];
      const float fx = curve((0.4124F * r + 0.3576F * g + 0.1805F * b) / 0.9505F);
      const float fy = curve(0.2126F * r + 0.7152F * g + 0.0722F * b);
      const float fz = curve((0.0193F * r + 0.1192F * g + 0.9505F * b) / 1.0890F);
      planes[0](y, x) = 116.0F * fy - 16.0F;
      planes[1](y, x) = 500.0F * (fx - fy);
      planes[2](y, x) = 200.0F * (fy - fz);
    }
  }
  return planes;
}

/// The `count` lowest rows of the orthonormal DCT of length 14.
inline Matrix dct_rows(int count) {
  Matrix rows(count, kPatch);
  for (int k = 0; k < count; ++k) {
    for (int i = 0; i < kPatch; ++i) {
      rows(k, i) = std::sqrt((k == 0 ? 1.0F : 2.0F) / static_cast<float>(kPatch)) *
                   std::cos(std::numbers::pi_v<float> * static_cast<float>(k * (2 * i + 1)) /
                            static_cast<float>(2 * kPatch));
    }
  }
  return rows;
}

/// Compresses a strength; what is below `unit` (sensor noise, JPEG blocks) hardly counts.
inline float log_strength(float value, float unit) { return std::log1p(std::abs(value) / unit); }

inline constexpr int kDirections = 7;

/// Strength of the lightness edges per patch and direction [patches, 7]; opposite directions are
/// one, and a direction between two bins is shared out.
inline Matrix edge_strengths(const Matrix& light) {
  Matrix strengths = Matrix::Zero(kGrid * kGrid, kDirections);
  const Index last = kInputSize - 1;
  for (Index y = 0; y <= last; ++y) {
    for (Index x = 0; x <= last; ++x) {
      const float dx = light(y, std::min(x + 1, last)) - light(y, std::max<Index>(x - 1, 0));
      const float dy = light(std::min(y + 1, last), x) - light(std::max<Index>(y - 1, 0), x);
      const float turn = std::atan2(dy, dx) / std::numbers::pi_v<float> + 1.0F;  // [0, 2]
      const float at = turn * static_cast<float>(kDirections);
      const float lower = std::floor(at);
      const float share = at - lower;
      const Index bin = static_cast<Index>(lower) % kDirections;
      const float strength = std::hypot(dx, dy) / static_cast<float>(kPatch * kPatch);
      const Index patch = (y / kPatch) * kGrid + x / kPatch;
      strengths(patch, bin) += (1.0F - share) * strength;
      strengths(patch, (bin + 1) % kDirections) += share * strength;
    }
  }
  return strengths;
}

/// The mean of every row of `values` [patches, any] with its neighbours up to `radius` cells away.
inline Matrix neighbourhood_mean(const Matrix& values, int radius) {
  Matrix means = Matrix::Zero(values.rows(), values.cols());
  for (int y = 0; y < kGrid; ++y) {
    for (int x = 0; x < kGrid; ++x) {
      int count = 0;
      for (int v = std::max(0, y - radius); v <= std::min(kGrid - 1, y + radius); ++v) {
        for (int u = std::max(0, x - radius); u <= std::min(kGrid - 1, x + radius); ++u, ++count) {
          means.row(y * kGrid + x) += values.row(v * kGrid + u);
        }
      }
      means.row(y * kGrid + x) /= static_cast<float>(count);
    }
  }
  return means;
}

/// Zero mean and unit variance per column; a column that does not vary says nothing, and becomes 0.
template <typename Columns>
void standardise(Columns&& features) {
  for (Index c = 0; c < features.cols(); ++c) {
    auto column = features.col(c);
    column.array() -= column.mean();
    const float spread = std::sqrt(column.squaredNorm() / static_cast<float>(column.size()));
    if (spread > 1e-4F) {
      column /= spread;
    } else {
      column.setZero();
    }
  }
}

/// The columns of the position code in head 0, and of surprise in every head.
inline constexpr Index kPositionColumn = 11;
inline constexpr Index kPositionColumns = 4;
inline constexpr Index kSurpriseColumn = kDim - 1;

/// The features of the table above, standardised and weighted [patches, 64].
inline Matrix patch_features(const Image& image) {
  constexpr float kPositionWeight = 0.7F;  // weak: likeness first, nearness second
  constexpr float kSurpriseWeight = 4.0F;  // one feature that has to stand beside fifteen
  const std::array<Matrix, 3> lab = lab_planes(image);
  const std::array<Matrix, 3> basis{dct_rows(4), dct_rows(3), dct_rows(3)};
  const std::array<float, 3> unit{24.0F, 12.0F, 12.0F};
  Matrix features = Matrix::Zero(kGrid * kGrid, kHeads * kDim);
  Matrix colour(kGrid * kGrid, 3);

  for (int y = 0; y < kGrid; ++y) {
    for (int x = 0; x < kGrid; ++x) {
      auto row = features.row(y * kGrid + x);
      float chroma_rest = 0.0F;
      for (std::size_t c = 0; c < 3; ++c) {
        const Matrix block = lab[c].block<kPatch, kPatch>(y * kPatch, x * kPatch);
        const Index channel = static_cast<Index>(c);
        const float mean = block.mean();
        const float power = (block.array() - mean).square().sum();
        colour(y * kGrid + x, channel) = mean;
        row(3 + channel) = log_strength(std::sqrt(power) / static_cast<float>(kPatch), 3.0F);

        const Matrix low = basis[c] * block * basis[c].transpose();
        const Index count = c == 0 ? 15 : 7;
        Index at = c == 0 ? kDim : 2 * kDim + 7 * (channel - 1);
        float rest = power;
        for (Index k = 1; k <= count; ++k) {
          const float coefficient = low(k / low.cols(), k % low.cols());
          row(at++) = log_strength(coefficient, unit[c]);
          rest -= coefficient * coefficient;
        }
        if (c > 0) chroma_rest += std::max(0.0F, rest);
      }
      row(2 * kDim + 14) = log_strength(std::sqrt(chroma_rest), unit[1]);
      for (int k = 1; k <= 2; ++k) {
        const auto wave = [k](int i) {
          return std::cos(std::numbers::pi_v<float> * static_cast<float>(k * (2 * i + 1)) /
                          static_cast<float>(2 * kGrid));
        };
        row(kPositionColumn + 2 * (k - 1)) = wave(x);
        row(kPositionColumn + 2 * (k - 1) + 1) = wave(y);
      }
    }
  }

  const Matrix around = neighbourhood_mean(colour, 2);
  const Matrix apart = colour - around;
  features.leftCols<3>() = colour;
  features.middleCols<3>(6) = around;
  for (Index i = 0; i < features.rows(); ++i) {
    features(i, 9) = log_strength(apart(i, 0), 6.0F);
    features(i, 10) = log_strength(std::hypot(apart(i, 1), apart(i, 2)), 6.0F);
  }

  const Matrix edges = edge_strengths(lab[0]);
  const auto log_edges = [](float value) { return log_strength(value, 1.5F); };
  auto directions = features.middleCols<kDim>(3 * kDim);
  directions.leftCols<kDirections>() = edges.unaryExpr(log_edges);
  directions.middleCols<kDirections>(kDirections) =
      neighbourhood_mean(edges, 1).unaryExpr(log_edges);
  directions.col(2 * kDirections) =
      (edges.rowwise().maxCoeff() - edges.rowwise().mean()).unaryExpr(log_edges);

  standardise(features);
  features.middleCols<kPositionColumns>(kPositionColumn) *= kPositionWeight;
  for (Index h = 0; h < kHeads; ++h) {
    const auto others = features.middleCols<kDim - 1>(h * kDim);
    Eigen::VectorXf distance = others.rowwise().squaredNorm();
    if (h == 0) {  // lying in a corner is no surprise
      distance -= features.middleCols<kPositionColumns>(kPositionColumn).rowwise().squaredNorm();
    }
    auto surprise = features.middleCols<1>(h * kDim + kSurpriseColumn);
    surprise = (distance.array().max(0.0F) / static_cast<float>(kDim)).log1p().matrix();
    standardise(surprise);
    surprise *= kSurpriseWeight;
  }
  return features;
}

}  // namespace detail

/// Encodes a 336 x 336 picture (see `prepare`) into 1 + 576 tokens of 4 heads x 16.
///
/// Queries and keys are the tokens, normalised per head as a transformer's RMS norm does, so that
/// logits stay within kGain * sqrt(dim) and no patch, however loud, attends to itself alone.
///
/// [CLS] cannot be the plain mean: the mean of standardised features is zero, and a zero query
/// attends to all patches alike. Being linear, its query can only ask for one direction per head.
/// So it asks for the direction in which the unusual patches lie: the mean of the tokens, weighted
/// by their squared distance from the average patch in that head. Unusual patches may lie in
/// opposite directions (bright and dark); what they share is the surprise feature, which this mean
/// therefore emphasises by itself.
inline Encoded encode(const Image& image) {
  using detail::kDim;
  using detail::kHeads;
  // Power at which a vector has reached half its full length. Queries are full soon, so that a
  // patch near the average still looks for its like; keys are not, so that loudness is heard.
  constexpr float kQueryFloor = 0.1F;
  constexpr float kKeyFloor = 0.5F;
  constexpr float kGain = 3.0F;     // sharpness of patch attention
  constexpr float kClsGain = 2.0F;  // sharpness of [CLS] attention
  if (image.width != kInputSize || image.height != kInputSize) {
    throw std::invalid_argument("encode: expected a picture of 336 x 336, got " +
                                std::to_string(image.width) + " x " + std::to_string(image.height));
  }
  Matrix features = detail::patch_features(image);
  const Index patches = features.rows();
  Encoded encoded;
  encoded.grid_h = detail::kGrid;
  encoded.grid_w = detail::kGrid;
  encoded.heads = kHeads;
  encoded.dim = kDim;
  encoded.tokens.resize(1 + patches, kHeads * kDim);
  encoded.tokens.bottomRows(patches) = features;
  // Position takes no part in [CLS].
  features.middleCols<detail::kPositionColumns>(detail::kPositionColumn).setZero();
  for (Index h = 0; h < kHeads; ++h) {
    const auto head = features.middleCols<kDim>(h * kDim);
    const Eigen::VectorXf unusual = head.rowwise().squaredNorm();
    encoded.tokens.row(0).segment<kDim>(h * kDim) =
        unusual.transpose() * head / std::max(unusual.sum(), 1e-6F);
  }

  encoded.queries = encoded.tokens;
  encoded.keys = encoded.tokens;
  const auto normalise = [](auto row, float floor, float gain) {
    const float power = row.squaredNorm() / static_cast<float>(kDim);
    row *= std::sqrt(gain / (floor + power));
  };
  for (Index h = 0; h < kHeads; ++h) {
    for (Index i = 0; i <= patches; ++i) {
      normalise(encoded.queries.row(i).segment<kDim>(h * kDim), kQueryFloor,
                i == 0 ? kClsGain : kGain);
      normalise(encoded.keys.row(i).segment<kDim>(h * kDim), kKeyFloor, kGain);
    }
  }
  return encoded;
}

}  // namespace photo
