#pragma once

#include <pybind11/pybind11.h>

namespace darwin_neg {

void bind_devices(pybind11::module_ & m);
void bind_gate(pybind11::module_ & m);
void bind_engine(pybind11::module_ & m);
void bind_quantize(pybind11::module_ & m);

}  // namespace darwin_neg
