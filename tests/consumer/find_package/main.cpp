// SPDX-License-Identifier: Apache-2.0
#include <cstdio>
#include <tokenfold/tokenfold.hpp>

int main() { std::puts("tokenfold " TOKENFOLD_VERSION_STRING); }
