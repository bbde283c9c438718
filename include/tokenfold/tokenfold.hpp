// SPDX-License-Identifier: Apache-2.0
#pragma once

/// tokenfold: fewer visual tokens for multimodal LLMs. This is the table of contents.

#include "tokenfold/version.hpp"

// The caller's memory, and what its rows are.
#include "tokenfold/core/layout.hpp"
#include "tokenfold/core/types.hpp"
#include "tokenfold/core/views.hpp"
#include "tokenfold/core/workspace.hpp"

// Attention: asked, not stored.
#include "tokenfold/core/attention.hpp"
#include "tokenfold/core/dense_attention.hpp"
#include "tokenfold/core/query_key_attention.hpp"

// Deciding: a sequence, a budget, three stages, a plan.
#include "tokenfold/core/budget.hpp"
#include "tokenfold/core/pipeline.hpp"
#include "tokenfold/core/plan.hpp"
#include "tokenfold/core/sequence.hpp"
#include "tokenfold/core/survivors.hpp"

// Around a method: how many tokens in which layer and what that saves, many sequences at once, the
// KV cache, where an output token comes from.
#include "tokenfold/batch.hpp"
#include "tokenfold/core/executor.hpp"
#include "tokenfold/core/grid_positions.hpp"
#include "tokenfold/core/planes.hpp"
#include "tokenfold/cost.hpp"
#include "tokenfold/kv_cache.hpp"
#include "tokenfold/schedule.hpp"
#include "tokenfold/source_map.hpp"

// The methods, one header per paper. By name at run time: tokenfold/registry.hpp.
#include "tokenfold/methods/baselines.hpp"
#include "tokenfold/methods/cdpruner.hpp"
#include "tokenfold/methods/cen_prune.hpp"
#include "tokenfold/methods/combinations.hpp"
#include "tokenfold/methods/dart.hpp"
#include "tokenfold/methods/divprune.hpp"
#include "tokenfold/methods/evit.hpp"
#include "tokenfold/methods/evs.hpp"
#include "tokenfold/methods/fastv.hpp"
#include "tokenfold/methods/ficoco_l.hpp"
#include "tokenfold/methods/ficoco_v.hpp"
#include "tokenfold/methods/ficoco_vl.hpp"
#include "tokenfold/methods/frame_wise.hpp"
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

// Stages that are in no method of their own, to compose with.
#include "tokenfold/correlate/any_targets.hpp"
