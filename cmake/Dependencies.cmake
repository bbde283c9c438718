# SPDX-License-Identifier: Apache-2.0
# Each dependency: what the parent already has, else an installed package, else a pinned release.
# All of them end up as SYSTEM, so that only this library's own headers can warn.
include(FetchContent)

macro(tokenfold_require_eigen)
  if(NOT TARGET Eigen3::Eigen)
    find_package(Eigen3 3.4 CONFIG QUIET)
  endif()
  if(NOT TARGET Eigen3::Eigen)
    # SOURCE_SUBDIR names a folder that does not exist: headers only, not Eigen's own build.
    FetchContent_Declare(eigen3
      GIT_REPOSITORY https://gitlab.com/libeigen/eigen.git
      GIT_TAG 3.4.0
      GIT_SHALLOW ON
      SOURCE_SUBDIR headers-only)
    FetchContent_MakeAvailable(eigen3)
    add_library(Eigen3::Eigen INTERFACE IMPORTED GLOBAL)
    target_include_directories(Eigen3::Eigen INTERFACE "${eigen3_SOURCE_DIR}")
  endif()
endmacro()

macro(tokenfold_require_json)
  if(NOT TARGET nlohmann_json::nlohmann_json)
    find_package(nlohmann_json 3.11 CONFIG QUIET)
  endif()
  if(NOT TARGET nlohmann_json::nlohmann_json)
    FetchContent_Declare(nlohmann_json
      GIT_REPOSITORY https://github.com/nlohmann/json.git
      GIT_TAG v3.11.3
      GIT_SHALLOW ON
      SYSTEM)
    FetchContent_MakeAvailable(nlohmann_json)
  endif()
endmacro()

macro(tokenfold_require_googletest)
  if(NOT TARGET GTest::gmock)
    find_package(GTest 1.12 CONFIG QUIET)
  endif()
  if(NOT TARGET GTest::gmock)
    set(INSTALL_GTEST OFF)
    FetchContent_Declare(googletest
      GIT_REPOSITORY https://github.com/google/googletest.git
      GIT_TAG v1.14.0
      GIT_SHALLOW ON
      SYSTEM)
    FetchContent_MakeAvailable(googletest)
  endif()
endmacro()

macro(tokenfold_require_benchmark)
  if(NOT TARGET benchmark::benchmark)
    find_package(benchmark 1.7 CONFIG QUIET)
  endif()
  if(NOT TARGET benchmark::benchmark)
    set(BENCHMARK_ENABLE_TESTING OFF)
    set(BENCHMARK_ENABLE_INSTALL OFF)
    FetchContent_Declare(benchmark
      GIT_REPOSITORY https://github.com/google/benchmark.git
      GIT_TAG v1.8.3
      GIT_SHALLOW ON
      SYSTEM)
    FetchContent_MakeAvailable(benchmark)
  endif()
endmacro()

# Sets `target` up as the include directory of stb, where stb is installed.
function(tokenfold_find_stb target)
  find_path(TOKENFOLD_STB_INCLUDE_DIR stb_image.h PATH_SUFFIXES stb)
  mark_as_advanced(TOKENFOLD_STB_INCLUDE_DIR)
  if(TOKENFOLD_STB_INCLUDE_DIR AND NOT TARGET ${target})
    add_library(${target} INTERFACE IMPORTED GLOBAL)
    target_include_directories(${target} INTERFACE "${TOKENFOLD_STB_INCLUDE_DIR}")
  endif()
endfunction()

# Sets `target` up as SentencePiece, where that is installed (Debian's libsentencepiece-dev).
function(tokenfold_find_sentencepiece target)
  find_path(TOKENFOLD_SENTENCEPIECE_INCLUDE_DIR sentencepiece_processor.h)
  find_library(TOKENFOLD_SENTENCEPIECE_LIBRARY sentencepiece)
  mark_as_advanced(TOKENFOLD_SENTENCEPIECE_INCLUDE_DIR TOKENFOLD_SENTENCEPIECE_LIBRARY)
  if(TOKENFOLD_SENTENCEPIECE_INCLUDE_DIR AND TOKENFOLD_SENTENCEPIECE_LIBRARY
      AND NOT TARGET ${target})
    add_library(${target} INTERFACE IMPORTED GLOBAL)
    target_include_directories(${target} INTERFACE "${TOKENFOLD_SENTENCEPIECE_INCLUDE_DIR}")
    target_link_libraries(${target} INTERFACE "${TOKENFOLD_SENTENCEPIECE_LIBRARY}")
    target_compile_definitions(${target} INTERFACE LLAVA_HAS_SENTENCEPIECE)
  endif()
endfunction()
