# SPDX-License-Identifier: Apache-2.0
# Flags for this project's own executables; none of them reaches a user of the library.

add_library(tokenfold_warnings INTERFACE)
if(MSVC)
  target_compile_options(tokenfold_warnings INTERFACE
    /W4 /permissive- $<$<BOOL:${TOKENFOLD_WERROR}>:/WX>)
else()
  target_compile_options(tokenfold_warnings INTERFACE
    -Wall -Wextra -Wpedantic -Wconversion -Wshadow
    $<$<BOOL:${TOKENFOLD_WERROR}>:-Werror>)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 14)
    # False alarms from inlined std::string and std::vector (https://gcc.gnu.org/PR105651);
    # what they look for, the sanitizers find.
    target_compile_options(tokenfold_warnings INTERFACE
      -Wno-restrict -Wno-stringop-overflow -Wno-array-bounds)
  endif()
endif()

add_library(tokenfold_sanitizers INTERFACE)
if(TOKENFOLD_SANITIZE)
  target_compile_options(tokenfold_sanitizers INTERFACE
    -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer)
  target_link_options(tokenfold_sanitizers INTERFACE -fsanitize=address,undefined)
endif()

# tokenfold_use_native(target): for this machine's processor, if TOKENFOLD_NATIVE is on.
function(tokenfold_use_native target)
  if(MSVC OR NOT TOKENFOLD_NATIVE)
    return()
  endif()
  target_compile_options(${target} PRIVATE -march=native)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    # Tuned for Zen, g++ 12 reads the operands of every multiply-add from memory: Eigen's own
    # product then reaches 80 GFLOP/s instead of 105.
    target_compile_options(${target} PRIVATE -mtune=generic)
  endif()
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
    # False alarms from the compiler's own AVX-512 header (https://gcc.gnu.org/PR105593).
    target_compile_options(${target} PRIVATE -Wno-maybe-uninitialized -Wno-uninitialized)
  endif()
endfunction()
