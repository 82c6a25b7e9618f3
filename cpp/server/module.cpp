// The Python module `_server`: llama.cpp's HTTP server, started in this process.

#include "signals.h"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <csignal>
#include <string>
#include <vector>

// defined in llama.cpp's tools/server/server.cpp, which has no header for it
int llama_server(int argc, char ** argv);

namespace py = pybind11;

namespace {

int serve(std::vector<std::string> arguments) {
    std::vector<char *> argv;
    argv.reserve(arguments.size() + 1);
    for (std::string & argument : arguments) {
        argv.push_back(argument.data());
    }
    argv.push_back(nullptr);
    int code   = 0;
    int signal = 0;
    {
        const py::gil_scoped_release release;
        const darwin_neg::Signals signals;
        code   = llama_server(static_cast<int>(arguments.size()), argv.data());
        signal = signals.received();
    }
    if (code == 0 && signal == SIGINT) {
        // as Python itself tells of Ctrl-C
        PyErr_SetNone(PyExc_KeyboardInterrupt);
        throw py::error_already_set();
    }
    return code;
}

}  // namespace

PYBIND11_MODULE(_server, m) {
    m.doc() = "llama.cpp's HTTP server with the NEG stage. Use darwin_neg_cpp.serve() instead.";
    m.def("llama_server", &serve, py::arg("argv"),
          "Runs the server until a signal ends it, and returns its exit code. argv: as of a program, its name first.");
}
