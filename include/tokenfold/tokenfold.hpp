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

// The methods, one header per paper.
#include "tokenfold/methods/evit.hpp"
#include "tokenfold/methods/fastv.hpp"
#include "tokenfold/methods/ficoco_l.hpp"
#include "tokenfold/methods/ficoco_v.hpp"
#include "tokenfold/methods/ficoco_vl.hpp"
#include "tokenfold/methods/prumerge.hpp"
