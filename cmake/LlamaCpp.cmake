# The pinned llama.cpp, patched, as targets `llama`, `llama-common` and `llama-server-impl`. See llama_source.py for where it
# comes from. They and ggml are shared libraries, so that the modules _core and _server use one copy of them.

set(DARWIN_NEG_LLAMA_DIR "" CACHE PATH "llama.cpp checkout of the pinned commit, used instead of the download (never written to)")
set(DARWIN_NEG_LLAMA_TARBALL "" CACHE FILEPATH "the pinned source distribution, already downloaded")
option(DARWIN_NEG_BUILD_SERVER "build the Python module _server, llama.cpp's HTTP server, which `darwin-neg serve` starts" ON)
option(DARWIN_NEG_PLUGINS "build ggml's backends as plug-ins, with one for every kind of CPU: for a wheel that runs everywhere" OFF)
set(DARWIN_NEG_CPU_VARIANTS "" CACHE STRING "the kinds of CPU to build plug-ins for, such as sse42;haswell;zen4 (default: all that ggml knows)")
option(DARWIN_NEG_RPC "build the backend that runs parts of a model on other machines (ggml-rpc)" ON)
set(DARWIN_NEG_VULKAN_HEADERS "" CACHE PATH "folder with vulkan/vulkan.hpp for a build with GGML_VULKAN (default: the machine's, or newer ones that are downloaded)")
option(DARWIN_NEG_BUILD_TOOLS "also offer llama.cpp's own tools (llama-completion, llama-quantize, llama-bench) as targets" OFF)

find_package(Python COMPONENTS Interpreter REQUIRED)
file(GLOB patches CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/patches/*.patch)
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS
  ${patches} ${CMAKE_CURRENT_LIST_DIR}/llama_pin.json ${CMAKE_CURRENT_LIST_DIR}/llama_source.py ${CMAKE_CURRENT_LIST_DIR}/apply_patch.py)

set(source_args)
if(DARWIN_NEG_LLAMA_DIR)
  list(APPEND source_args --llama-dir ${DARWIN_NEG_LLAMA_DIR})
elseif(DARWIN_NEG_LLAMA_TARBALL)
  list(APPEND source_args --tarball ${DARWIN_NEG_LLAMA_TARBALL})
endif()
execute_process(
  COMMAND ${Python_EXECUTABLE} ${CMAKE_CURRENT_LIST_DIR}/llama_source.py ${source_args}
  OUTPUT_VARIABLE llama_dir ERROR_VARIABLE llama_error RESULT_VARIABLE llama_result OUTPUT_STRIP_TRAILING_WHITESPACE)
if(NOT llama_result EQUAL 0)
  message(FATAL_ERROR "${llama_error}")
endif()
if(llama_error)
  message(WARNING "${llama_error}")
endif()
message(STATUS "llama.cpp: ${llama_dir}")
# Compilers see the tree under one name in every build folder, whatever its key, so that a compiler cache serves all builds and
# what a new patch leaves as it was. A link has no time of its own: objects of another tree must go.
set(llama_link ${CMAKE_BINARY_DIR}/llama-source)
set(linked "")
if(IS_SYMLINK ${llama_link})
  file(READ_SYMLINK ${llama_link} linked)
endif()
if(NOT linked STREQUAL llama_dir)
  file(REMOVE ${llama_link})
  file(CREATE_LINK ${llama_dir} ${llama_link} RESULT link_result SYMBOLIC)
  if(link_result EQUAL 0)
    file(GLOB_RECURSE stale ${CMAKE_BINARY_DIR}/*.o)
    if(stale)
      file(REMOVE ${stale})
    endif()
  else()
    set(llama_link ${llama_dir})  # Windows asks for a right that few have
  endif()
endif()
set(llama_dir ${llama_link})
execute_process(
  COMMAND ${Python_EXECUTABLE} ${CMAKE_CURRENT_LIST_DIR}/llama_source.py --key
  OUTPUT_VARIABLE DARWIN_NEG_PATCH_KEY OUTPUT_STRIP_TRAILING_WHITESPACE)

file(READ ${CMAKE_CURRENT_LIST_DIR}/llama_pin.json pin)
foreach(field sha256 commit llama_version build_number)
  string(JSON DARWIN_NEG_PIN_${field} GET "${pin}" ${field})
endforeach()

set(BUILD_SHARED_LIBS ON)
set(LLAMA_BUILD_COMMIT ${DARWIN_NEG_PIN_commit})
set(LLAMA_BUILD_NUMBER ${DARWIN_NEG_PIN_build_number})
set(LLAMA_BUILD_COMMON ON)
set(with_server OFF)
if(DARWIN_NEG_BUILD_TOOLS OR (DARWIN_NEG_BUILD_PYTHON AND DARWIN_NEG_BUILD_SERVER))
  set(with_server ON)
endif()
foreach(option LLAMA_BUILD_TOOLS LLAMA_BUILD_SERVER)  # the server is one of the tools; of the others, only what is asked for is built
  set(${option} ${with_server} CACHE BOOL "set by darwin-neg-cpp" FORCE)
endforeach()
# The server's router, shell tools and MCP servers are other programs, which it starts when it is asked for them. A video is
# taken apart by one too, whoever sends it: images and sound need none.
set(LLAMA_SUBPROCESS ON CACHE BOOL "set by darwin-neg-cpp" FORCE)
# nothing of llama.cpp is installed, or downloads at build time
foreach(off MTMD_VIDEO LLAMA_BUILD_TESTS LLAMA_BUILD_EXAMPLES LLAMA_BUILD_APP LLAMA_BUILD_UI LLAMA_BUILD_MTMD LLAMA_USE_PREBUILT_UI
    LLAMA_OPENSSL LLAMA_LLGUIDANCE LLAMA_TOOLS_INSTALL LLAMA_ALL_WARNINGS GGML_CCACHE)
  set(${off} OFF CACHE BOOL "set by darwin-neg-cpp" FORCE)
endforeach()
set(GGML_RPC ${DARWIN_NEG_RPC} CACHE BOOL "set by darwin-neg-cpp" FORCE)
# where the headers of RDMA are found, the library would be needed on every machine that loads this one
set(GGML_RPC_RDMA OFF CACHE BOOL "set by darwin-neg-cpp" FORCE)
if(DARWIN_NEG_PLUGINS)
  foreach(on GGML_BACKEND_DL GGML_CPU_ALL_VARIANTS)
    set(${on} ON CACHE BOOL "set by darwin-neg-cpp" FORCE)
  endforeach()
  set(GGML_NATIVE OFF CACHE BOOL "set by darwin-neg-cpp" FORCE)
endif()
if(GGML_VULKAN)
  set(vulkan_headers ${DARWIN_NEG_VULKAN_HEADERS})
  if(NOT vulkan_headers)
    execute_process(
      COMMAND ${Python_EXECUTABLE} ${CMAKE_CURRENT_LIST_DIR}/vulkan_headers.py
      OUTPUT_VARIABLE vulkan_headers ERROR_VARIABLE vulkan_error RESULT_VARIABLE vulkan_result OUTPUT_STRIP_TRAILING_WHITESPACE)
    if(NOT vulkan_result EQUAL 0)
      message(FATAL_ERROR "${vulkan_error}")
    endif()
  endif()
  message(STATUS "Vulkan headers: ${vulkan_headers}")
  set(Vulkan_INCLUDE_DIR ${vulkan_headers} CACHE PATH "set by darwin-neg-cpp" FORCE)
endif()
add_subdirectory(${llama_dir} ${CMAKE_BINARY_DIR}/llama.cpp EXCLUDE_FROM_ALL)

if(DARWIN_NEG_UBSAN)
  file(READ ${PROJECT_SOURCE_DIR}/patches/touched.json touched)
  string(REGEX MATCHALL "(src|common|ggml/src)/[^\"]+\\.cpp" touched "${touched}")
  foreach(file ${touched})
    string(REGEX MATCH "^(src|common|ggml/src)" folder ${file})
    set_property(SOURCE ${llama_dir}/${file} DIRECTORY ${llama_dir}/${folder} APPEND PROPERTY COMPILE_OPTIONS ${DARWIN_NEG_UBSAN})
  endforeach()
endif()

if(GGML_RPC AND NOT GGML_BACKEND_DL)
  # ggml's registry alone asks for it; everything else keeps the flags, and so the compiler cache, of a build without it
  get_target_property(definitions ggml INTERFACE_COMPILE_DEFINITIONS)
  list(REMOVE_ITEM definitions GGML_USE_RPC)
  set_property(TARGET ggml PROPERTY INTERFACE_COMPILE_DEFINITIONS ${definitions})
endif()

# Our part of the RPC backend, where it is built
if(TARGET ggml-rpc)
  target_sources(ggml-rpc PRIVATE ${PROJECT_SOURCE_DIR}/cpp/rpc/rpc-link.cpp)
  target_include_directories(ggml-rpc PRIVATE ${PROJECT_SOURCE_DIR}/cpp/rpc)
endif()

# Our part of libllama. llama.cpp compiles its model files in batches; ours stay separate, so that one change is one object.
file(GLOB neg_sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/cpp/neg/*.cpp)
target_sources(llama PRIVATE ${neg_sources})
set_source_files_properties(${neg_sources} TARGET_DIRECTORY llama PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
target_include_directories(llama PUBLIC ${PROJECT_SOURCE_DIR}/cpp/neg)
set_source_files_properties(${neg_sources} TARGET_DIRECTORY llama PROPERTIES COMPILE_OPTIONS "${DARWIN_NEG_UBSAN}")
target_link_libraries(llama PRIVATE vendor-hash)

# Our part of the HTTP server, where it is built
if(TARGET server-context)
  target_sources(server-context PRIVATE ${PROJECT_SOURCE_DIR}/cpp/server/server-neg.cpp)
  target_include_directories(server-context PUBLIC ${PROJECT_SOURCE_DIR}/cpp/server)
endif()

# The libraries lie beside the modules, in the package. Their names are our own, since a process that has loaded a library does
# not load another of the same name: with llama.cpp's names, any other package's ggml would take the place of ours. A wheel has
# no symbolic links, so the names carry no version.
set(shared_libraries ggml-base ggml llama llama-common)
if(NOT GGML_BACKEND_DL)
  list(APPEND shared_libraries ${GGML_AVAILABLE_BACKENDS})  # of this and earlier configurations: not all of them need exist
endif()
if(with_server)
  list(APPEND shared_libraries mtmd llama-server-impl)
endif()
set(plugins)
if(GGML_BACKEND_DL)
  # Only the plug-ins and ggml itself are compiled differently. Everything else gets the flags of a build without plug-ins, so
  # that a compiler cache serves both.
  get_target_property(definitions ggml-base INTERFACE_COMPILE_DEFINITIONS)
  list(REMOVE_ITEM definitions GGML_BACKEND_DL)
  set_property(TARGET ggml-base PROPERTY INTERFACE_COMPILE_DEFINITIONS ${definitions})
  target_compile_definitions(ggml INTERFACE GGML_USE_CPU GGML_BACKEND_SHARED)
  foreach(backend ${GGML_AVAILABLE_BACKENDS})
    if(NOT TARGET ${backend})
      continue()
    endif()
    string(REGEX REPLACE "^ggml-cpu-" "" variant ${backend})
    if(DARWIN_NEG_CPU_VARIANTS AND backend MATCHES "^ggml-cpu" AND NOT variant IN_LIST DARWIN_NEG_CPU_VARIANTS)
      # ggml depends on every plug-in; one that is not wanted costs no time when it is empty
      file(CONFIGURE OUTPUT ${CMAKE_CURRENT_BINARY_DIR}/empty.cpp CONTENT "")
      set_property(TARGET ${backend} PROPERTY SOURCES ${CMAKE_CURRENT_BINARY_DIR}/empty.cpp)
    else()
      list(APPEND plugins ${backend})
    endif()
  endforeach()
  foreach(variant ${DARWIN_NEG_CPU_VARIANTS})
    if(NOT ggml-cpu-${variant} IN_LIST plugins)
      message(FATAL_ERROR "DARWIN_NEG_CPU_VARIANTS: ggml knows no '${variant}' here; it has ${GGML_AVAILABLE_BACKENDS}")
    endif()
  endforeach()
endif()
set(DARWIN_NEG_LIBRARIES)
foreach(library ${shared_libraries})
  if(TARGET ${library})
    list(APPEND DARWIN_NEG_LIBRARIES ${library})
  endif()
endforeach()
if(APPLE)
  set(beside_itself @loader_path)
else()
  set(beside_itself $ORIGIN)
endif()
foreach(library ${DARWIN_NEG_LIBRARIES})
  string(REGEX REPLACE "-impl$" "" name ${library})
  foreach(property VERSION SOVERSION MACHO_CURRENT_VERSION PUBLIC_HEADER PRIVATE_HEADER)
    set_property(TARGET ${library} PROPERTY ${property})
  endforeach()
  set_target_properties(${library} PROPERTIES OUTPUT_NAME darwin-neg-${name} INSTALL_RPATH ${beside_itself})
  if(UNIX AND NOT APPLE AND NOT DARWIN_NEG_SANITIZE)
    # a name that none of the libraries has is an error here, not in somebody's process
    target_link_options(${library} PRIVATE LINKER:--no-undefined)
  endif()
endforeach()
# Plug-ins keep their names: ggml finds them by these, and opens them by their path.
foreach(plugin ${plugins})
  foreach(property VERSION SOVERSION)
    set_property(TARGET ${plugin} PROPERTY ${property})
  endforeach()
  set_target_properties(${plugin} PROPERTIES INSTALL_RPATH ${beside_itself})
  if(plugin MATCHES "^ggml-cpu-" AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    # all are opened and asked how well they suit the machine; with unique symbols, those that are not taken would stay in memory
    target_compile_options(${plugin} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:-fno-gnu-unique>)
  endif()
  list(APPEND DARWIN_NEG_LIBRARIES ${plugin})
endforeach()
