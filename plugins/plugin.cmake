# One of ggml's backends as a package of its own, built from the tree above: add_plugin(TARGET PACKAGE).
# The target alone is compiled, and installed with the name of the build that it belongs to.

function(add_plugin target package)
  # what the base is built with where it loads plug-ins: see cmake/LlamaCpp.cmake
  set(DARWIN_NEG_PLUGINS ON CACHE BOOL "set by the plug-in" FORCE)
  set(DARWIN_NEG_BUILD_PYTHON OFF CACHE BOOL "set by the plug-in" FORCE)
  add_subdirectory(${CMAKE_CURRENT_FUNCTION_LIST_DIR}/.. ${CMAKE_BINARY_DIR}/base EXCLUDE_FROM_ALL)
  if(NOT TARGET ${target})
    message(FATAL_ERROR "ggml has no backend ${target} here")
  endif()
  foreach(name PATCH_KEY PIN_sha256)
    get_directory_property(DARWIN_NEG_${name} DIRECTORY ${CMAKE_CURRENT_FUNCTION_LIST_DIR}/.. DEFINITION DARWIN_NEG_${name})
  endforeach()
  get_directory_property(version DIRECTORY ${CMAKE_CURRENT_FUNCTION_LIST_DIR}/.. DEFINITION PROJECT_VERSION)
  file(GENERATE OUTPUT ${CMAKE_CURRENT_BINARY_DIR}/built.py CONTENT "# the build that the library belongs to: see __init__.py
LIBRARY_NAME = \"$<TARGET_FILE_NAME:${target}>\"
BUILD = {
    \"version\": \"${version}\",
    \"patch_key\": \"${DARWIN_NEG_PATCH_KEY}\",
    \"pin_sha256\": \"${DARWIN_NEG_PIN_sha256}\",
}
")
  install(TARGETS ${target}
    LIBRARY DESTINATION ${package} COMPONENT plugin RUNTIME DESTINATION ${package} COMPONENT plugin)
  install(FILES ${CMAKE_CURRENT_BINARY_DIR}/built.py DESTINATION ${package} COMPONENT plugin)
  # the library is ggml's, under a licence of its own
  get_directory_property(llama_dir DIRECTORY ${CMAKE_CURRENT_FUNCTION_LIST_DIR}/.. DEFINITION llama_dir)
  install(FILES ${CMAKE_CURRENT_FUNCTION_LIST_DIR}/../LICENSE DESTINATION ${package} COMPONENT plugin)
  install(FILES ${llama_dir}/LICENSE DESTINATION ${package} RENAME LICENSE.llama.cpp COMPONENT plugin)
endfunction()
