# SPDX-License-Identifier: Apache-2.0
include(CMakePackageConfigHelpers)
include(GNUInstallDirs)

# Headers only: everything goes to include/ and share/, nothing depends on the architecture.
set(package_dir "${CMAKE_INSTALL_DATADIR}/cmake/tokenfold")

target_include_directories(tokenfold INTERFACE
  $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)

install(DIRECTORY "${PROJECT_SOURCE_DIR}/include/tokenfold"
  DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}" FILES_MATCHING PATTERN "*.hpp")
install(FILES "${PROJECT_SOURCE_DIR}/LICENSE"
  DESTINATION "${CMAKE_INSTALL_DATADIR}/licenses/tokenfold")

install(TARGETS tokenfold EXPORT tokenfold-targets)
install(EXPORT tokenfold-targets NAMESPACE tokenfold:: DESTINATION "${package_dir}")

configure_package_config_file("${PROJECT_SOURCE_DIR}/cmake/tokenfold-config.cmake.in"
  "${PROJECT_BINARY_DIR}/tokenfold-config.cmake" INSTALL_DESTINATION "${package_dir}")
# Before 1.0 a new minor version may break its callers.
write_basic_package_version_file("${PROJECT_BINARY_DIR}/tokenfold-config-version.cmake"
  COMPATIBILITY SameMinorVersion ARCH_INDEPENDENT)
install(FILES
  "${PROJECT_BINARY_DIR}/tokenfold-config.cmake"
  "${PROJECT_BINARY_DIR}/tokenfold-config-version.cmake"
  DESTINATION "${package_dir}")
