// A forward pass that AOTInductor compiled, as an operator. torch's own binding for Python runs it under the
// interpreter lock, so that nothing else in the process moves during a step; a call of an operator gives the lock up.

#include <ATen/ATen.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/library.h>

#include <memory>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

namespace {

using at::Tensor;
using Package = torch::inductor::AOTIModelPackageLoader;

std::vector<std::unique_ptr<Package>> packages;

Package& get_package(int64_t index) {
  TORCH_CHECK(index >= 0 && index < (int64_t)packages.size() && packages[index], "there is no such package");
  return *packages[index];
}

int64_t open_package(std::string path) {
  packages.push_back(std::make_unique<Package>(path));
  return (int64_t)packages.size() - 1;
}

std::vector<std::string> list_constants(int64_t package) { return get_package(package).get_constant_fqns(); }

// The package keeps the addresses alone: the tensors have to outlive it.
void set_constants(int64_t package, std::vector<std::string> names, std::vector<Tensor> tensors) {
  TORCH_CHECK(names.size() == tensors.size(), "names and tensors go together");
  std::unordered_map<std::string, Tensor> constants;
  for (size_t i = 0; i < names.size(); i++) constants.emplace(names[i], tensors[i]);
  get_package(package).load_constants(constants, false, true, true);
}

Tensor run_package(int64_t package, Tensor input_ids, Tensor position_ids, Tensor indices) {
  return get_package(package).boxed_run({std::move(input_ids), std::move(position_ids), std::move(indices)}).at(0);
}

void close_package(int64_t package) {
  get_package(package);
  packages[package].reset();
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(atrium, m) {
  m.def("open_package(str path) -> int", &open_package);
  m.def("list_constants(int package) -> str[]", &list_constants);
  m.def("set_constants(int package, str[] names, Tensor[] tensors) -> ()", &set_constants);
  m.def("run_package(int package, Tensor input_ids, Tensor position_ids, Tensor indices) -> Tensor", &run_package);
  m.def("close_package(int package) -> ()", &close_package);
}
