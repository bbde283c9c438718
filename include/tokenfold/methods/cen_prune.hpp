// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tokenfold/methods/cdpruner.hpp"
#include "tokenfold/methods/divprune.hpp"

namespace tokenfold {

/// Cen-Prune: centring as a plug-in of DivPrune and CDPruner.
///
/// Wen, Lee, Choi, "Centering before Pruning", arXiv 2608.30263.
///
///   x̄_i = x_i − mean x,   S̄_ij = cos(x̄_i, x̄_j)
///   g_i = −(1/(N−1)) Σ_{j≠i} cos(x_i, x_j),   g̃ = g scaled to 0 … 1
///   DivPrune    all picks but the first: argmax g̃_i · min_{j∈𝒦} (1 − S̄_ij)
///   CDPruner    L̃ = diag(r̃ ⊙ g̃) S̄ diag(r̃ ⊙ g̃)
///
/// Centring alone makes DivPrune worse by the paper's own table; the product is what helps.
/// `.filter.centering` has the parts one by one. The paper does not say whether "the usual first
/// pick" of DivPrune is among centred tokens; here it is not (`.filter.center_first_pick`).
///
/// Where: after the projector (LLaVA), or before the merger, rows averaged over each 2 × 2 group
/// (Qwen).
/// Needs, Returns: as the method it is plugged into.
/// Cost: besides, 2–3 passes over the tokens and a copy of them.
/// Memory: besides, (N + 4) · D numbers and 24 bytes a token.
inline filter::Centering cen_prune() {
  return {.center = true, .distinctness = filter::Distinctness::min_max};
}

/// For tokens of dynamic resolution before Qwen's merger, where one channel has nearly all
/// variance: g̃ by a sigmoid, channels standardised.
inline filter::Centering cen_prune_dynamic() {
  return {.center = true, .distinctness = filter::Distinctness::sigmoid, .standardize = true};
}

inline DivPrune cen_divprune() {
  return {.filter = {.centering = cen_prune()}, .correlate = {}, .compress = {}};
}
inline DivPrune cen_divprune_dynamic() {
  return {.filter = {.centering = cen_prune_dynamic()}, .correlate = {}, .compress = {}};
}
inline CDPruner cen_cdpruner() {
  return {.filter = {.centering = cen_prune()}, .correlate = {}, .compress = {}};
}
inline CDPruner cen_cdpruner_dynamic() {
  return {.filter = {.centering = cen_prune_dynamic()}, .correlate = {}, .compress = {}};
}

}  // namespace tokenfold
