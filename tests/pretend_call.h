// One call of an operation on the device "pretend": its memory, the devices of its arguments, and its tensors on the CPU.

#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/CPUAllocator.h>

#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

namespace {

const c10::Device kPretend(c10::DeviceType::PrivateUse1, 0);
const c10::DispatchKeySet kPretendKey(c10::DispatchKey::PrivateUse1);

bool is_pretend(const at::Tensor& tensor) {
  return tensor.defined() && tensor.device().type() == c10::DeviceType::PrivateUse1;
}

// ---- memory -----------------------------------------------------------------------------------------------------

struct Allocator final : c10::Allocator {
  c10::DataPtr allocate(size_t count) override {
    void* data = count ? c10::GetCPUAllocator()->raw_allocate(count) : nullptr;
    return {data, data, raw_deleter(), kPretend};
  }
  c10::DeleterFnPtr raw_deleter() const override {
    return c10::GetCPUAllocator()->raw_deleter();
  }
  void copy_data(void* to, const void* from, size_t count) const override {
    default_copy_data(to, from, count);
  }
};

Allocator allocator;

// Memory of the CPU as memory of the device. It lives as long as the storage of the CPU.
c10::DataPtr adopt(c10::DataPtr&& data) {
  void* address = data.get();
  return {address, new c10::DataPtr(std::move(data)), [](void* owner) { delete static_cast<c10::DataPtr*>(owner); },
          kPretend};
}

// ---- the rules of CUDA for the devices of arguments ---------------------------------------------------------------

// Operations of torch's TensorIterator take a CPU tensor without axes beside tensors of a device. Others take none.
const std::unordered_set<std::string> kTakesScalars{
    "add", "sub", "rsub", "mul", "div", "true_divide", "floor_divide", "pow", "fmod", "remainder", "atan2", "hypot",
    "copysign", "maximum", "minimum", "fmax", "fmin", "clamp", "clamp_min", "clamp_max", "where", "lerp", "addcmul",
    "addcdiv", "masked_fill", "fill", "index_fill", "eq", "ne", "lt", "le", "gt", "ge", "bitwise_and", "bitwise_or",
    "bitwise_xor", "bitwise_left_shift", "bitwise_right_shift", "__and__", "__or__", "__xor__", "__lshift__",
    "__rshift__", "logical_and", "logical_or", "logical_xor", "xlogy", "logaddexp", "logaddexp2", "nextafter",
    "heaviside", "gcd", "lcm", "polar", "complex", "mse_loss", "smooth_l1_loss", "huber_loss", "igamma", "igammac",
    "sigmoid_backward", "tanh_backward", "silu_backward", "gelu_backward", "threshold_backward", "_foreach_mul",
    "_foreach_add", "_foreach_div", "special_xlog1py", "special_zeta"};
// They take indices on the CPU for data on the device, and not the other way round.
const std::unordered_set<std::string> kTakesIndices{
    "index", "index_put", "_index_put_impl", "_unsafe_index", "_unsafe_index_put", "_unsafe_masked_index"};
// They copy between devices.
const std::unordered_set<std::string> kCopies{"copy", "_foreach_copy"};

struct Argument {
  at::Tensor tensor;
  bool written;
  std::string name;
};

std::string base_name(const c10::OperatorHandle& op) {
  std::string name = op.schema().name().substr(op.schema().name().find("::") + 2);
  while (name.size() > 1 && name.back() == '_' && name.rfind("__", 0) != 0) name.pop_back();
  return name;
}

void check_devices(const c10::OperatorHandle& op, const std::vector<Argument>& arguments) {
  const std::string name = base_name(op);
  if (kCopies.count(name)) return;
  const bool indexes = kTakesIndices.count(name) > 0;
  const bool on_device = arguments.empty() || is_pretend(arguments[0].tensor);
  for (const auto& argument : arguments) {
    if (is_pretend(argument.tensor)) {
      TORCH_CHECK(!indexes || on_device, op.schema().name(), ": indices should be either on cpu or on the same device "
                  "as the indexed tensor (cpu)");
      continue;
    }
    const bool scalar = argument.tensor.dim() == 0 && !argument.written;
    if (indexes && on_device && (argument.name == "indices" || (argument.name == "values" && scalar))) continue;
    TORCH_CHECK(scalar && kTakesScalars.count(name),
                "Expected all tensors to be on the same device, but found at least two devices, ", kPretend, " and ",
                argument.tensor.device(), "! (argument ", argument.name, " of ", op.schema().name(), ")");
  }
}

// The tensors of one call on the CPU, and the way back.
class Call {
 public:
  // A tensor of the CPU with the memory of `tensor`.
  at::Tensor make_cpu(const at::Tensor& tensor) {
    if (!tensor.defined()) return tensor;
    for (auto& [device, cpu] : tensors) {
      if (device.is_same(tensor)) return cpu;
    }
    if (!is_pretend(tensor)) {
      tensors.emplace_back(tensor, tensor);
      return tensor;
    }
    at::Tensor cpu = at::detail::make_tensor<c10::TensorImpl>(
        cpu_storage(tensor.storage()), c10::DispatchKeySet(c10::DispatchKey::CPU), tensor.dtype());
    auto* impl = cpu.unsafeGetTensorImpl();
    impl->set_sizes_and_strides(tensor.sizes(), tensor.strides(), tensor.storage_offset());
    impl->_set_conj(tensor.is_conj());
    impl->_set_neg(tensor.is_neg());
    if (tensor.unsafeGetTensorImpl()->is_wrapped_number()) impl->set_wrapped_number(true);
    tensors.emplace_back(tensor, cpu);
    return cpu;
  }

  // After the kernel: a changed size, and new memory, go to the tensors of the device.
  void write_back() {
    for (auto& [device, pair] : storages) {
      c10::StorageImpl* cpu = pair.second.unsafeGetStorageImpl();
      if (cpu->data() != pair.first.data() || cpu->nbytes() != pair.first.nbytes()) {
        const size_t count = cpu->nbytes();
        pair.first.set_data_ptr_noswap(adopt(cpu->set_data_ptr(c10::DataPtr())));
        pair.first.set_nbytes(count);
      }
    }
    for (auto& [device, cpu] : tensors) {
      if (device.sizes() != cpu.sizes() || device.strides() != cpu.strides() ||
          device.storage_offset() != cpu.storage_offset()) {
        device.unsafeGetTensorImpl()->set_sizes_and_strides(cpu.sizes(), cpu.strides(), cpu.storage_offset());
      }
    }
  }

  // A result on the device: an argument, a view of an argument, or new memory.
  at::Tensor make_pretend(const at::Tensor& result) {
    if (!result.defined() || is_pretend(result)) return result;
    for (auto& [device, cpu] : tensors) {
      if (cpu.is_same(result)) return device;
    }
    at::Tensor made =
        at::detail::make_tensor<c10::TensorImpl>(device_storage(result.storage()), kPretendKey, result.dtype());
    auto* impl = made.unsafeGetTensorImpl();
    impl->set_sizes_and_strides(result.sizes(), result.strides(), result.storage_offset());
    impl->_set_conj(result.is_conj());
    impl->_set_neg(result.is_neg());
    return made;
  }

 private:
  c10::Storage cpu_storage(const c10::Storage& device) {
    auto found = storages.find(device.unsafeGetStorageImpl());
    if (found != storages.end()) return found->second.second;
    c10::Storage cpu(c10::Storage::use_byte_size_t(), device.nbytes(),
                     c10::DataPtr(const_cast<void*>(device.data()), c10::Device(c10::kCPU)), c10::GetCPUAllocator(),
                     true);
    storages.emplace(device.unsafeGetStorageImpl(), std::make_pair(device, cpu));
    return cpu;
  }

  c10::Storage device_storage(const c10::Storage& cpu) {
    for (auto& [key, pair] : storages) {
      if (pair.second.unsafeGetStorageImpl() == cpu.unsafeGetStorageImpl()) return pair.first;
    }
    const size_t count = cpu.nbytes();
    c10::Storage device(c10::Storage::use_byte_size_t(), count,
                        c10::DataPtr(const_cast<void*>(cpu.data()), new c10::Storage(cpu),
                                     [](void* owner) { delete static_cast<c10::Storage*>(owner); }, kPretend),
                        &allocator, true);
    storages.emplace(device.unsafeGetStorageImpl(), std::make_pair(device, cpu));
    return device;
  }

  std::vector<std::pair<at::Tensor, at::Tensor>> tensors;
  std::unordered_map<c10::StorageImpl*, std::pair<c10::Storage, c10::Storage>> storages;
};

} // namespace
