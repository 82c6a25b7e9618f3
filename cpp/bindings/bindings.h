#pragma once

#include <pybind11/pybind11.h>

#include <string>

namespace darwin_neg {

// Text of a file, which may hold anything: what is not UTF-8 becomes U+FFFD.
pybind11::str lenient(const std::string & text);

// The file of the library that an address lies in, "" where it lies in none.
std::string library_of(const void * address);

void bind_backends(pybind11::module_ & m);
void bind_devices(pybind11::module_ & m);
void bind_gate(pybind11::module_ & m);
void bind_engine(pybind11::module_ & m);
void bind_memory(pybind11::module_ & m);
void bind_params(pybind11::module_ & m);
void bind_quantize(pybind11::module_ & m);

}  // namespace darwin_neg
