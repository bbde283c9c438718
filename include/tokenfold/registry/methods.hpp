// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tokenfold/correlate/any_targets.hpp"
#include "tokenfold/methods/baselines.hpp"
#include "tokenfold/methods/cdpruner.hpp"
#include "tokenfold/methods/cen_prune.hpp"
#include "tokenfold/methods/dart.hpp"
#include "tokenfold/methods/divprune.hpp"
#include "tokenfold/methods/evit.hpp"
#include "tokenfold/methods/evs.hpp"
#include "tokenfold/methods/fastv.hpp"
#include "tokenfold/methods/ficoco_l.hpp"
#include "tokenfold/methods/ficoco_v.hpp"
#include "tokenfold/methods/ivtp.hpp"
#include "tokenfold/methods/mmtok.hpp"
#include "tokenfold/methods/prumerge.hpp"
#include "tokenfold/methods/pyramiddrop.hpp"
#include "tokenfold/methods/scope.hpp"
#include "tokenfold/methods/sparsevlm.hpp"
#include "tokenfold/methods/tome.hpp"
#include "tokenfold/methods/tops.hpp"
#include "tokenfold/methods/vidcom2.hpp"
#include "tokenfold/methods/visionzip.hpp"
#include "tokenfold/registry/reducer.hpp"

/// The registry: one line per method. What is listed here is in `make_reducer`, in the command line
/// tool and in its listings.
namespace tokenfold {
namespace detail {

/// FiCoCo with the target policy as an option.
using FiCoCoVOfAnyTargets = BasicFiCoCoV<correlate::AnyTargets>;
using FiCoCoLOfAnyTargets = BasicFiCoCoL<correlate::AnyTargets>;

inline FiCoCoVOfAnyTargets with_any_targets(const FiCoCoV& m) {
  return {.filter = m.filter,
          .correlate = {.targets = {.quantile = m.correlate.targets}},
          .compress = m.compress};
}
inline FiCoCoLOfAnyTargets with_any_targets(const FiCoCoL& m) {
  return {.filter = m.filter,
          .correlate = {.gamma = m.correlate.gamma,
                        .direction = m.correlate.direction,
                        .text = m.correlate.text,
                        .indirect = m.correlate.indirect,
                        .candidates = m.correlate.candidates,
                        .targets = {.quantile = m.correlate.targets}},
          .compress = m.compress};
}

}  // namespace detail

/// Calls `use` with the `MethodLine` of every method.
template <class Use>
void for_each_method(Use&& use) {
  const auto encoder = Place::encoder;
  const auto after_encoder = Place::after_encoder;
  const auto decoder = Place::decoder;

  use(MethodLine<detail::FiCoCoVOfAnyTargets>{
      {.name = "ficoco_v",
       .title = "FiCoCo-V",
       .summary = "redundant patches merge into the preserved ones they attend to",
       .place = encoder},
      {{"released", [] { return detail::with_any_targets(ficoco_v_released()); }}}});
  use(MethodLine<ToMe>{{.name = "tome",
                        .title = "ToMe",
                        .summary = "the most similar pairs of patches merge, by bipartite matching",
                        .place = encoder},
                       {{"raster", tome_raster}}});
  use(MethodLine<ToMeEveryKth>{{.name = "tome_every_kth",
                                .title = "ToMe, every k-th",
                                .summary = "all tokens merge into every k-th of them",
                                .place = encoder}});
  use(MethodLine<ToMeRandom>{{.name = "tome_random",
                              .title = "ToMe, random",
                              .summary = "random tokens merge into the most similar others",
                              .place = encoder}});
  use(MethodLine<EViT>{
      {.name = "evit",
       .title = "EViT",
       .summary = "highest [CLS] attention stays, the rest is fused into one token",
       .place = encoder,
       .rounding = Rounding::ceil,
       .needs_cls = true},
      {{"released", evit_released}}});
  use(MethodLine<IVTP>{
      {.name = "ivtp",
       .title = "IVTP",
       .summary = "attention rolled out over a group of layers, times the length of values",
       .place = encoder}});

  use(MethodLine<PruMerge>{
      {.name = "prumerge",
       .title = "PruMerge",
       .summary = "outliers of [CLS] attention absorb the tokens of most similar keys",
       .place = after_encoder,
       .adaptive = true,
       .needs_cls = true},
      {{"released", prumerge_released}, {"published", prumerge_published}}});
  use(MethodLine<PruMerge>{{.name = "prumerge_plus",
                            .title = "PruMerge+",
                            .summary = "prumerge with samples of the raster",
                            .place = after_encoder,
                            .adaptive = true,
                            .needs_cls = true},
                           {{"default", prumerge_plus},
                            {"released", prumerge_plus_released},
                            {"published", prumerge_plus_published}}});
  use(MethodLine<VisionZip>{
      {.name = "visionzip",
       .title = "VisionZip",
       .summary = "highest [CLS] attention stays, a sample of the rest absorbs the rest",
       .place = after_encoder,
       .returns_cls = true},
      {{"released", visionzip_released}, {"averaged", visionzip_averaged}}});
  use(MethodLine<DivPrune>{{.name = "divprune",
                            .title = "DivPrune",
                            .summary = "the farthest token next, by cosine",
                            .place = after_encoder},
                           {{"released", divprune_released},
                            {"cen", cen_divprune},
                            {"cen_dynamic", cen_divprune_dynamic}}});
  use(MethodLine<CDPruner>{
      {.name = "cdpruner",
       .title = "CDPruner",
       .summary = "the most diverse set given the instruction, by determinants",
       .place = after_encoder},
      {{"released", cdpruner_released},
       {"cen", cen_cdpruner},
       {"cen_dynamic", cen_cdpruner_dynamic}}});
  use(MethodLine<MMTok>{{.name = "mmtok",
                         .title = "MMTok",
                         .summary = "the set that best covers both question and image",
                         .place = after_encoder},
                        {{"qwen", mmtok_qwen}}});
  use(MethodLine<SCOPE>{{.name = "scope",
                         .title = "SCOPE",
                         .summary = "salient tokens that cover what the others do not",
                         .place = after_encoder},
                        {{"additive", scope_additive}}});
  use(MethodLine<TOPS>{{.name = "tops",
                        .title = "TOPS",
                        .summary = "relevance, coverage and diversity, added",
                        .place = after_encoder},
                       {{"min_max", tops_min_max}}});

  use(MethodLine<detail::FiCoCoLOfAnyTargets>{
      {.name = "ficoco_l",
       .title = "FiCoCo-L",
       .summary = "ficoco_v guided by the question",
       .place = decoder},
      {{"released", [] { return detail::with_any_targets(ficoco_l_released()); }}}});
  use(MethodLine<FastV>{{.name = "fastv",
                         .title = "FastV",
                         .summary = "highest attention of the last text token stays",
                         .place = decoder},
                        {{"published", fastv_published}}});
  use(MethodLine<PyramidDrop>{{.name = "pyramiddrop",
                               .title = "PyramidDrop",
                               .summary = "fastv in several steps, each by the next layer",
                               .place = decoder,
                               .rounding = Rounding::floor}});
  use(MethodLine<SparseVLM>{
      {.name = "sparsevlm",
       .title = "SparseVLM",
       .summary = "highest attention of relevant words stays, the best of the rest is clustered",
       .place = decoder,
       .adaptive = true},
      {{"published", sparsevlm_published}}});
  use(MethodLine<SparseVLMv2>{{.name = "sparsevlm_v2",
                               .title = "SparseVLM v2",
                               .summary = "the same without position bias and without clusters",
                               .place = decoder},
                              {{"released", sparsevlm_v2_released}}});
  use(MethodLine<DART>{{.name = "dart",
                        .title = "DART",
                        .summary = "least similar to a few pivots of long keys",
                        .place = decoder,
                        .rounding = Rounding::floor},
                       {{"released", dart_released}, {"embeddings", dart_embeddings}}});

  use(MethodLine<EVS>{{.name = "evs",
                       .title = "EVS",
                       .summary = "video: what differs most from the frame before",
                       .place = after_encoder,
                       .rounding = Rounding::floor,
                       .video = true}});
  use(MethodLine<VidCom2>{
      {.name = "vidcom2",
       .title = "VidCom2",
       .summary = "video: what is unusual in its frame, more of it in unusual frames",
       .place = after_encoder,
       .rounding = Rounding::floor,
       .adaptive = true,
       .video = true},
      {{"released", [] { return vidcom2_released(); }}, {"vllm", [] { return vidcom2_vllm(); }}}});

  use(MethodLine<UniformSampling>{{.name = "uniform",
                                   .title = "uniform sampling",
                                   .summary = "baseline: every so many-th token",
                                   .place = after_encoder,
                                   .baseline = true}});
  use(MethodLine<RandomSampling>{{.name = "random",
                                  .title = "random sampling",
                                  .summary = "baseline: any tokens, by seed",
                                  .place = after_encoder,
                                  .baseline = true}});
  use(MethodLine<SpatialPooling>{{.name = "pooling",
                                  .title = "average pooling",
                                  .summary = "baseline: means of windows of the grid",
                                  .place = after_encoder,
                                  .adaptive = true,
                                  .baseline = true}});
}

}  // namespace tokenfold
