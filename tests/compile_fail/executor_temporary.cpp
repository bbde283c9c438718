// expect: deleted
// SPDX-License-Identifier: Apache-2.0
#include <tokenfold/core/executor.hpp>
#include <tokenfold/core/workspace.hpp>

void run_on_a_temporary(tokenfold::Workspace& workspace) { workspace.run_on(tokenfold::Serial{}); }
