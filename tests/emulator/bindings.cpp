// The Python module `_emulator`: control, counters, registered memory, and faults as Python exceptions.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <string>
#include <vector>

#include "core/control.h"

namespace py = pybind11;

namespace {

py::tuple triple(uint3 i) { return py::make_tuple(i.x, i.y, i.z); }

void set_fault(const py::handle& type, const emulator::Fault& fault) {
  py::object error = type(fault.what());
  error.attr("kind") = emulator::fault_name(fault.kind);
  error.attr("kernel") = fault.kernel;
  error.attr("block") = triple(fault.block);
  error.attr("thread") = triple(fault.thread);
  error.attr("file") = fault.file;
  error.attr("line") = fault.line;
  PyErr_SetObject(type.ptr(), error.ptr());
}

py::dict counters() {
  py::dict kernels;
  for (const auto& [kernel, counters] : emulator::counters()) {
    py::dict values;
#define EMULATOR_TO_PYTHON(name) values[#name] = counters.name;
    EMULATOR_COUNTERS(EMULATOR_TO_PYTHON)
#undef EMULATOR_TO_PYTHON
    kernels[kernel.c_str()] = values;
  }
  return kernels;
}

// Calls `extern "C" void function(const char* name, void* const* arrays)` of a library loaded with ctypes,
// which could not carry an exception itself.
void call(std::uintptr_t function, const std::string& name, const std::vector<py::buffer>& arrays) {
  std::vector<py::buffer_info> infos;
  std::vector<void*> pointers;
  for (const py::buffer& array : arrays) {
    infos.push_back(array.request(/*writable=*/true));
    pointers.push_back(infos.back().ptr);
  }
  reinterpret_cast<void (*)(const char*, void* const*)>(function)(name.c_str(), pointers.data());
}

}  // namespace

PYBIND11_MODULE(_emulator, module) {
  module.doc() = "Control and counters of the CUDA emulator.";
  static py::object fault_type = py::exception<emulator::Fault>(module, "Fault", PyExc_RuntimeError);
  py::register_exception_translator([](std::exception_ptr pointer) {
    try {
      std::rethrow_exception(pointer);
    } catch (const emulator::Fault& fault) {
      set_fault(fault_type, fault);
    }
  });
  module.def("set_order", &emulator::set_order, py::arg("name"), py::arg("seed") = 1,
             "Turns of warps and lanes: 'forward', 'reversed' or 'random'.");
  module.def("set_tracing", &emulator::set_tracing, py::arg("on"),
             "Memory checks and counters of traced code.");
  module.def("set_sampled_blocks", &emulator::set_sampled_blocks, py::arg("count"),
             "Blocks of a launch that count sectors and wavefronts; 0: all.");
  module.def("counters", &counters, "{kernel: {counter: value}} since the last reset.");
  module.def(
      "launched_functions",
      [] {
        py::list functions;
        for (const auto& [library, offset, threads, bytes] : emulator::launched_functions()) {
          functions.append(py::make_tuple(library, offset, threads, bytes));
        }
        return functions;
      },
      "[(library, offset of the kernel in it, threads, dynamic shared bytes)] of every kernel launched so "
      "far, "
      "with its largest block.");
  module.def("reset_counters", [] { emulator::counters().clear(); });
  module.def(
      "register_global",
      [](std::uintptr_t data, std::size_t bytes, const std::string& name) {
        emulator::register_global(reinterpret_cast<const void*>(data), bytes, name);
      },
      py::arg("data"), py::arg("bytes"), py::arg("name"),
      "Memory that launches may use without declaring it.");
  module.def("release_global",
             [](std::uintptr_t data) { emulator::release_global(reinterpret_cast<const void*>(data)); });
  module.def("call", &call, py::arg("function"), py::arg("name"), py::arg("arrays"),
             "Calls a C function that launches kernels; faults come as exceptions.");
}
