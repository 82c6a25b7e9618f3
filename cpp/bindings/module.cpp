// The Python module `_core`: argument conversion, GIL release and error translation around cpp/engine. No policy here.

#include "bindings.h"

#include "errors.h"

#include "llama.h"

#include <pybind11/stl.h>

#include <exception>
#include <string>
#include <system_error>
#include <utility>

namespace py = pybind11;

namespace {

// Raises the class of darwin_neg_cpp.errors with this name, so that C++ and Python raise exactly the same classes.
void raise_as(const char * name, const char * message) {
    const py::object type = py::module_::import("darwin_neg_cpp.errors").attr(name);
    // the message may quote a file, which may hold anything
    PyErr_SetObject(type.ptr(), darwin_neg::lenient(message).ptr());
}

void translate(std::exception_ptr p) {
    try {
        if (p) {
            std::rethrow_exception(std::move(p));
        }
    } catch (const darwin_neg::ModelFileError & e) {
        raise_as("ModelFileError", e.what());
    } catch (const darwin_neg::NegHeadError & e) {
        raise_as("NegHeadError", e.what());
    } catch (const darwin_neg::ContextFullError & e) {
        raise_as("ContextFullError", e.what());
    } catch (const darwin_neg::RequestError & e) {
        raise_as("RequestError", e.what());
    } catch (const darwin_neg::Error & e) {
        raise_as("DarwinNegError", e.what());
    } catch (const std::system_error & e) {
        // of all that may fail so, threads are what a process may run out of
        const std::string why = std::string("a thread cannot be started (") + e.what() +
                                "); end other programs, or raise the limits of processes and of memory (ulimit -u, -v)";
        raise_as("DarwinNegError", why.c_str());
    }
}

py::dict build_info() {
    py::dict out;
    out["version"]           = DARWIN_NEG_VERSION;
    out["llama_cpp_version"] = DARWIN_NEG_LLAMA_VERSION;
    out["llama_cpp_commit"]  = DARWIN_NEG_LLAMA_COMMIT;
    out["pin_sha256"]        = DARWIN_NEG_PIN_SHA256;
    out["patch_key"]         = DARWIN_NEG_PATCH_KEY;
    out["build_type"]        = DARWIN_NEG_BUILD_TYPE;
#if defined(__clang__)
    out["compiler"] = "clang " __clang_version__;
#elif defined(__GNUC__)
    out["compiler"] = "gcc " __VERSION__;
#elif defined(_MSC_VER)
    out["compiler"] = "msvc " + std::to_string(_MSC_VER);
#else
    out["compiler"] = "unknown";
#endif
    out["cpu_features"] = llama_print_system_info();
    return out;
}

}  // namespace

PYBIND11_MODULE(_core, m) {
    m.doc() = "Engine of darwin_neg_cpp: llama.cpp with the NEG stage. Use darwin_neg_cpp.DarwinNEG instead.";
    py::register_exception_translator(&translate);
    m.def("build_info", &build_info);
    darwin_neg::bind_backends(m);
    darwin_neg::bind_devices(m);
    darwin_neg::bind_gate(m);
    darwin_neg::bind_params(m);
    darwin_neg::bind_engine(m);
    darwin_neg::bind_quantize(m);
    darwin_neg::bind_memory(m);
    // whoever imports this module finds the devices of the machine
    py::module_::import("darwin_neg_cpp.engine.backends").attr("load")(m);
}
