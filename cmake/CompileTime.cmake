# SPDX-License-Identifier: Apache-2.0
# What does including tokenfold cost the compiler, beside what it needs from Eigen?
#
#   cmake -P cmake/CompileTime.cmake
#   cmake -DCOMPILER=clang++ -DREPEATS=5 -DFLAGS="-O2|-march=native" -P cmake/CompileTime.cmake
#
# Compiles files of one #include, each REPEATS times, and prints the shortest times as a table: with
# -fsyntax-only (what the headers themselves cost), and to an object file with FLAGS. "x" is the
# ratio to the Eigen headers that tokenfold includes. Goal: at most 1.5 for everything.
# EIGEN is Eigen's include directory, if it is not where packages put it; METHODS a regular
# expression of the method headers to measure. Needs a POSIX shell.

cmake_minimum_required(VERSION 3.20)
get_filename_component(root "${CMAKE_CURRENT_LIST_DIR}/.." ABSOLUTE)
if(NOT COMPILER)
  set(COMPILER c++)
endif()
if(NOT REPEATS)
  set(REPEATS 5)
endif()
if(NOT FLAGS)
  set(FLAGS "-O2")
endif()
string(REPLACE "|" ";" FLAGS "${FLAGS}")
if(NOT EIGEN)
  find_path(EIGEN Eigen/Core PATHS /usr/include/eigen3 /usr/local/include/eigen3
    /opt/homebrew/include/eigen3 NO_CACHE REQUIRED)
endif()

string(RANDOM LENGTH 8 unique)
set(work "/tmp/tokenfold_compile_time_${unique}")
file(MAKE_DIRECTORY "${work}")

# The Eigen headers that the library includes, one per line.
file(GLOB_RECURSE headers "${root}/include/tokenfold/*.hpp")
set(eigen_headers)
foreach(header IN LISTS headers)
  if(NOT header MATCHES "registry|eigen_thread_pool|eigen_sparse|std_threads")  # not part of tokenfold.hpp
    file(STRINGS "${header}" lines REGEX "^#include <(unsupported/)?Eigen/")
    list(APPEND eigen_headers ${lines})
  endif()
endforeach()
list(REMOVE_DUPLICATES eigen_headers)
list(JOIN eigen_headers "\n" eigen_part)

# Milliseconds of processor time (user and system: a busy machine does not count) of the fastest of
# REPEATS compilations of `source`.
function(measure source result)
  set(least 0)
  list(JOIN ARGN " " options)
  foreach(repeat RANGE 1 ${REPEATS})
    execute_process(
      COMMAND sh -c "${COMPILER} -std=c++20 ${options} -I '${root}/include' -isystem '${EIGEN}' \
                     '${source}' && times"
      WORKING_DIRECTORY "${work}" OUTPUT_VARIABLE times COMMAND_ERROR_IS_FATAL ANY)
    # The second line is that of the children: 0m1.250s 0m0.120s.
    string(REGEX MATCHALL "[0-9]+m[0-9]+\\.[0-9]+s" times "${times}")
    set(time 0)
    foreach(index 2 3)
      list(GET times ${index} one)
      string(REGEX MATCH "([0-9]+)m([0-9]+)\\.([0-9]+)s" one "${one}")
      string(SUBSTRING "${CMAKE_MATCH_3}00" 0 3 fraction)
      math(EXPR time "${time} + 60000 * ${CMAKE_MATCH_1} + 1000 * ${CMAKE_MATCH_2} + 1${fraction} - 1000")
    endforeach()
    if(least EQUAL 0 OR time LESS least)
      set(least ${time})
    endif()
  endforeach()
  set(${result} ${least} PARENT_SCOPE)
endfunction()

# Right-aligned in `width` columns.
function(pad text width result)
  string(LENGTH "${text}" length)
  math(EXPR missing "${width} - ${length}")
  string(REPEAT " " ${missing} spaces)
  set(${result} "${spaces}${text}" PARENT_SCOPE)
endfunction()

# `time` / `unit` with two decimals.
function(ratio time unit result)
  math(EXPR hundredths "(100 * ${time} + ${unit} / 2) / ${unit}")
  math(EXPR whole "${hundredths} / 100")
  math(EXPR rest "${hundredths} % 100")
  if(rest LESS 10)
    set(rest "0${rest}")
  endif()
  set(${result} "${whole}.${rest}" PARENT_SCOPE)
endfunction()

# One row of the table; the first sets the times that the others are compared with.
function(row name text)
  set(source "${work}/${name}.cpp")
  file(WRITE "${source}" "${text}\n")
  set(columns "")
  foreach(kind syntax object)
    if(kind STREQUAL "syntax")
      measure("${source}" time -fsyntax-only)
    else()
      measure("${source}" time ${FLAGS} -c -o "${name}.o")
    endif()
    if(NOT eigen_${kind})
      set(eigen_${kind} ${time} PARENT_SCOPE)
      set(eigen_${kind} ${time})
    endif()
    pad(${time} 10 cell)
    ratio(${time} ${eigen_${kind}} relative)
    pad(${relative} 7 relative)
    string(APPEND columns "${cell}${relative}")
  endforeach()
  pad("${name}" 18 label)
  message(NOTICE "${label}${columns}")
endfunction()

list(JOIN FLAGS " " flags)
message(NOTICE "${COMPILER}, least of ${REPEATS}, milliseconds; Eigen: ${eigen_headers}")
message(NOTICE "                  -fsyntax-only      x  ${flags} -c      x")
row(eigen "${eigen_part}")
row(tokenfold "#include <tokenfold/tokenfold.hpp>")
file(GLOB methods "${root}/include/tokenfold/methods/*.hpp")
foreach(method IN LISTS methods)
  get_filename_component(name "${method}" NAME_WE)
  if(METHODS AND NOT name MATCHES "${METHODS}")
    continue()
  endif()
  row(${name} "#include <tokenfold/methods/${name}.hpp>")
endforeach()
file(REMOVE_RECURSE "${work}")
