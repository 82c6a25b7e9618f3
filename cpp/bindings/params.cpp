// ModelParams and RequestParams from keyword arguments, through the list of fields that each struct keeps beside them.

#include "bindings.h"

#include "model.h"
#include "request.h"

#include <pybind11/stl.h>

#include <string>

namespace py = pybind11;

namespace darwin_neg {

namespace {

// Sets the fields named in `values`; others keep their defaults. Throws TypeError for a name or a type that does not
// fit.
template <typename Params>
void set_fields(Params & params, const py::kwargs & values) {
    size_t used = 0;
    Params::visit_fields(params, [&](const char * name, auto & field) {
        if (!values.contains(name)) {
            return;
        }
        ++used;
        try {
            field = values[name].template cast<std::decay_t<decltype(field)>>();
        } catch (const py::cast_error &) {
            throw py::type_error(std::string(name) + " cannot be " +
                                 py::repr(values[name]).template cast<std::string>());
        }
    });
    if (used == values.size()) {
        return;
    }
    Params::visit_fields(params, [&](const char * name, auto &) {
        if (values.contains(name)) {
            values.attr("pop")(name);
        }
    });
    throw py::type_error("no such parameter: " + py::str(py::list(values)[0]).cast<std::string>());
}

template <typename Params>
py::dict field_dict(const Params & params) {
    py::dict out;
    Params::visit_fields(params, [&](const char * name, const auto & field) { out[name] = py::cast(field); });
    return out;
}

}  // namespace

void bind_params(py::module_ & m) {
    py::enum_<NegAction>(m, "NegAction")
        .value("off", NegAction::off)
        .value("mask", NegAction::mask)
        .value("sample", NegAction::sample);
    py::enum_<Notify>(m, "Notify")
        .value("token", Notify::token)
        .value("sample", Notify::sample)
        .value("request", Notify::request);
    py::class_<ModelParams>(m, "ModelParams")
        .def(py::init([](const std::string & model_path, const py::kwargs & values) {
                 ModelParams params;
                 params.model_path = model_path;
                 set_fields(params, values);
                 return params;
             }),
             py::arg("model_path"))
        .def("as_dict", &field_dict<ModelParams>);
    py::class_<RequestParams>(m, "RequestParams")
        .def(py::init([](const py::kwargs & values) {
            RequestParams params;
            set_fields(params, values);
            return params;
        }))
        .def("as_dict", &field_dict<RequestParams>);
}

}  // namespace darwin_neg
