# SPDX-License-Identifier: Apache-2.0
# Configures, builds and runs a project that uses this library as a stranger would.
#
# cmake -DCONSUMER=find_package|add_subdirectory -DSOURCE_DIR=... -DBUILD_DIR=... -DWORK_DIR=...
#       -DGENERATOR=... -DCOMPILER=... -DCONFIG=... -DEIGEN_DIR=... -DVERSION=... -P RunConsumer.cmake

function(run)
  execute_process(COMMAND ${ARGV} RESULT_VARIABLE status OUTPUT_VARIABLE output
    ERROR_VARIABLE output)
  if(NOT status EQUAL 0)
    list(JOIN ARGV " " line)
    message(NOTICE "${output}")  # FATAL_ERROR would wrap the lines
    message(FATAL_ERROR "failed: ${line}")
  endif()
  set(output "${output}" PARENT_SCOPE)
endfunction()

file(REMOVE_RECURSE "${WORK_DIR}")
set(arguments
  -G "${GENERATOR}" "-DCMAKE_CXX_COMPILER=${COMPILER}" "-DCMAKE_BUILD_TYPE=${CONFIG}"
  "-DEigen3_DIR=${EIGEN_DIR}")

if(CONSUMER STREQUAL "find_package")
  # Installed, then moved: a package that remembers where it was built would break.
  run("${CMAKE_COMMAND}" --install "${BUILD_DIR}" --config "${CONFIG}" --prefix "${WORK_DIR}/first")
  file(RENAME "${WORK_DIR}/first" "${WORK_DIR}/prefix")
  if(NOT EXISTS "${WORK_DIR}/prefix/share/licenses/tokenfold/LICENSE")
    message(FATAL_ERROR "The license is not installed.")
  endif()
  list(APPEND arguments "-DCMAKE_PREFIX_PATH=${WORK_DIR}/prefix")
else()
  list(APPEND arguments "-DTOKENFOLD_SOURCE_DIR=${SOURCE_DIR}")
endif()

run("${CMAKE_COMMAND}" ${arguments} -S "${SOURCE_DIR}/tests/consumer/${CONSUMER}"
  -B "${WORK_DIR}/build")
run("${CMAKE_COMMAND}" --build "${WORK_DIR}/build" --config "${CONFIG}")

find_program(consumer consumer NO_DEFAULT_PATH REQUIRED
  PATHS "${WORK_DIR}/build" "${WORK_DIR}/build/${CONFIG}")
run("${consumer}")
if(NOT output MATCHES "tokenfold ${VERSION}")
  message(FATAL_ERROR "Expected `tokenfold ${VERSION}`, the consumer printed: ${output}")
endif()
