// SPDX-License-Identifier: Apache-2.0
#pragma once

// The only place that holds the version; CMake reads the three numbers below.
#define TOKENFOLD_VERSION_MAJOR 0
#define TOKENFOLD_VERSION_MINOR 1
#define TOKENFOLD_VERSION_PATCH 0

// One comparable number, 1.2.3 = 10203, for `#if TOKENFOLD_VERSION >= 10203`.
#define TOKENFOLD_VERSION \
  (TOKENFOLD_VERSION_MAJOR * 10000 + TOKENFOLD_VERSION_MINOR * 100 + TOKENFOLD_VERSION_PATCH)

#define TOKENFOLD_DETAIL_JOIN_VERSION(major, minor, patch) #major "." #minor "." #patch
#define TOKENFOLD_DETAIL_EXPAND_VERSION(major, minor, patch) \
  TOKENFOLD_DETAIL_JOIN_VERSION(major, minor, patch)

// "1.2.3"
#define TOKENFOLD_VERSION_STRING                                                    \
  TOKENFOLD_DETAIL_EXPAND_VERSION(TOKENFOLD_VERSION_MAJOR, TOKENFOLD_VERSION_MINOR, \
                                  TOKENFOLD_VERSION_PATCH)
