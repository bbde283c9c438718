# SPDX-License-Identifier: Apache-2.0
# Compiles SOURCE (no output) and compares the outcome with the first line of SOURCE:
#   // expect: ok       it must compile
#   // expect: REGEX    it must not, and the compiler's message must match
#
# cmake -DCOMPILER=... -DFLAGS=a|b -DINCLUDES=dir|dir -DSYSTEM_INCLUDES=dir|dir -DSOURCE=...
#       -P CheckSyntax.cmake

file(READ "${SOURCE}" text)
if(NOT text MATCHES "^// expect: ([^\r\n]+)")
  message(FATAL_ERROR "${SOURCE}: the first line must be `// expect: ok` or `// expect: REGEX`")
endif()
string(STRIP "${CMAKE_MATCH_1}" expected)

set(command "${COMPILER}" -std=c++20 -fsyntax-only)
foreach(list FLAGS INCLUDES SYSTEM_INCLUDES)
  string(REPLACE "|" ";" ${list} "${${list}}")
endforeach()
list(APPEND command ${FLAGS})
foreach(dir IN LISTS INCLUDES)
  list(APPEND command -I "${dir}")
endforeach()
foreach(dir IN LISTS SYSTEM_INCLUDES)
  list(APPEND command -isystem "${dir}")
endforeach()

# Messages in plain English and ASCII quotes, whatever the caller's locale.
set(ENV{LC_ALL} C)
execute_process(COMMAND ${command} "${SOURCE}"
  RESULT_VARIABLE status OUTPUT_VARIABLE output ERROR_VARIABLE output)

if(expected STREQUAL "ok" AND NOT status EQUAL 0)
  set(problem "must compile, but does not")
elseif(NOT expected STREQUAL "ok" AND status EQUAL 0)
  set(problem "must not compile, but does; expected /${expected}/")
elseif(NOT expected STREQUAL "ok" AND NOT output MATCHES "${expected}")
  set(problem "fails, but not with /${expected}/")
endif()
if(problem)
  message(NOTICE "${output}")  # FATAL_ERROR would wrap the compiler's lines
  message(FATAL_ERROR "${SOURCE} ${problem}")
endif()
