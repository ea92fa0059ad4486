// A second device without hardware: torch's free device key (PrivateUse1) on the memory of the host.
//
// A tensor on this device holds real values. Every operation reaches `run_on_cpu`. It checks the devices of the
// arguments as CUDA does, runs the CPU kernel on CPU tensors that share the memory, and returns tensors on the device.
// So an operation gives the numbers of the CPU, and it fails where CUDA fails for a tensor on a wrong device.
//
// `make_cpu` gives a tensor the same memory on the CPU; `make_pretend` is its inverse.

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/library.h>

#include <unordered_map>
#include <unordered_set>

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

// ---- random numbers -----------------------------------------------------------------------------------------------

// A generator of the device. The numbers come from a generator of the CPU with a state of its own.
struct Generator final : c10::GeneratorImpl {
  explicit Generator(at::Generator source)
      : c10::GeneratorImpl(kPretend, kPretendKey), source(std::move(source)) {}
  void set_current_seed(uint64_t seed) override { source.set_current_seed(seed); }
  void set_offset(uint64_t offset) override { source.set_offset(offset); }
  uint64_t get_offset() const override { return source.get_offset(); }
  uint64_t current_seed() const override { return source.current_seed(); }
  uint64_t seed() override { return source.seed(); }
  void set_state(const c10::TensorImpl& state) override { source.unsafeGetGeneratorImpl()->set_state(state); }
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override {
    return source.unsafeGetGeneratorImpl()->get_state();
  }
  Generator* clone_impl() const override { return new Generator(source.clone()); }
  at::Generator source;
};

at::Generator new_generator() {
  return at::make_generator<Generator>(at::make_generator<at::CPUGeneratorImpl>());
}

const at::Generator& default_generator() {
  static const at::Generator generator = new_generator();
  return generator;
}

// ---- what torch asks of a device ----------------------------------------------------------------------------------

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return 1; }
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
  void setCurrentDevice(c10::DeviceIndex) const override {}
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex) const override { return 0; }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex) const override { return 0; }
  at::Device getDeviceFromPtr(void*) const override { return kPretend; }
  at::Allocator* getPinnedMemoryAllocator() const override { return c10::GetCPUAllocator(); }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex) const override { return default_generator(); }
  at::Generator getNewGenerator(c10::DeviceIndex) const override { return new_generator(); }
  void resizePrivateUse1Bytes(const c10::Storage& storage, size_t count) const override {
    c10::DataPtr data = allocator.allocate(count);
    if (std::min(count, storage.nbytes())) {
      std::memcpy(data.get(), storage.data(), std::min(count, storage.nbytes()));
    }
    storage.set_data_ptr_noswap(std::move(data));
    storage.set_nbytes(count);
  }
};

struct Guard final : c10::impl::DeviceGuardImplInterface {
  static constexpr c10::DeviceType static_type = c10::DeviceType::PrivateUse1;
  c10::DeviceType type() const override { return static_type; }
  c10::Device exchangeDevice(c10::Device) const override { return kPretend; }
  c10::Device getDevice() const override { return kPretend; }
  void setDevice(c10::Device) const override {}
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::Stream getStream(c10::Device) const override { return stream(); }
  c10::Stream getDefaultStream(c10::Device) const override { return stream(); }
  c10::Stream getStreamFromGlobalPool(c10::Device, bool) const override { return stream(); }
  c10::Stream getNewStream(c10::Device, int) const override { return stream(); }
  c10::Stream exchangeStream(c10::Stream) const override { return stream(); }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
  void record(void**, const c10::Stream&, c10::DeviceIndex, c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream&) const override {}
  void synchronizeEvent(void*) const override {}
  void synchronizeDevice(c10::DeviceIndex) const override {}
  static c10::Stream stream() { return c10::Stream(c10::Stream::DEFAULT, kPretend); }
};

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

// ---- one operation ------------------------------------------------------------------------------------------------

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

// Apply `change` to every tensor of a value. Lists are copied.
template <typename Change>
void each_tensor(c10::IValue& value, const Change& change) {
  if (value.isTensor()) {
    value = change(value.toTensor());
  } else if (value.isTensorList()) {
    c10::List<at::Tensor> list;
    for (const at::Tensor& item : value.toTensorVector()) list.push_back(change(item));
    value = list;
  } else if (value.isOptionalTensorList()) {
    c10::List<std::optional<at::Tensor>> list;
    for (const std::optional<at::Tensor>& item : value.toOptionalTensorList()) {
      list.push_back(item.has_value() ? std::optional<at::Tensor>(change(*item)) : std::nullopt);
    }
    value = list;
  }
}

void run_on_cpu(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto& schema = op.schema();
  const size_t count = schema.arguments().size(), begin = stack->size() - count;
  Call call;
  std::vector<Argument> arguments;
  for (size_t i = 0; i < count; i++) {
    const auto& argument = schema.arguments()[i];
    const bool written = argument.alias_info() != nullptr && argument.alias_info()->isWrite();
    each_tensor((*stack)[begin + i], [&](const at::Tensor& tensor) {
      if (tensor.defined()) arguments.push_back({tensor, written, argument.name()});
      return tensor;
    });
  }
  check_devices(op, arguments);
  for (size_t i = 0; i < count; i++) {
    auto& value = (*stack)[begin + i];
    const auto& type = schema.arguments()[i].type();
    each_tensor(value, [&](const at::Tensor& tensor) { return call.make_cpu(tensor); });
    if (value.isDevice() && value.toDevice().type() == c10::DeviceType::PrivateUse1) value = c10::Device(c10::kCPU);
    if (value.isGenerator() || (value.isNone() && type->repr_str() == "Generator?")) {
      const at::Generator generator = value.isNone() ? default_generator() : value.toGenerator();
      TORCH_CHECK(generator.device().type() == c10::DeviceType::PrivateUse1, "Expected a '", kPretend.type(),
                  "' device type for generator but found '", generator.device().type(), "'");
      value = static_cast<Generator*>(generator.unsafeGetGeneratorImpl())->source;
    }
  }
  {
    // Only the kernel of the CPU may see the tensors of the CPU: no autograd, and no autocast of the CPU.
    c10::impl::ExcludeDispatchKeyGuard guard(c10::autograd_dispatch_keyset_with_ADInplaceOrView |
                                             c10::autocast_dispatch_keyset);
    op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);
  }
  call.write_back();
  const size_t returned = schema.returns().size();
  for (size_t i = stack->size() - returned; i < stack->size(); i++) {
    each_tensor((*stack)[i], [&](const at::Tensor& tensor) { return call.make_pretend(tensor); });
  }
}

// ---- operations that make or move memory --------------------------------------------------------------------------

at::Tensor empty(at::IntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
                 std::optional<at::Device>, std::optional<bool>, std::optional<at::MemoryFormat> format) {
  return at::detail::empty_generic(size, &allocator, kPretendKey, c10::dtype_or_default(dtype), format);
}

at::Tensor empty_strided(at::IntArrayRef size, at::IntArrayRef stride, std::optional<at::ScalarType> dtype,
                         std::optional<at::Layout>, std::optional<at::Device>, std::optional<bool>) {
  return at::detail::empty_strided_generic(size, stride, &allocator, kPretendKey, c10::dtype_or_default(dtype));
}

at::Tensor zero_tensor(at::IntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
                       std::optional<at::Device>, std::optional<bool>) {
  return at::zeros(size, at::TensorOptions(kPretend).dtype(c10::dtype_or_default(dtype)));
}

at::Tensor& set_to(at::Tensor& self, const c10::Storage& storage, int64_t offset, at::IntArrayRef size,
                   at::IntArrayRef stride) {
  auto* impl = self.unsafeGetTensorImpl();
  impl->set_storage_keep_dtype(storage);
  impl->set_storage_offset(offset);
  stride.empty() && !size.empty() ? impl->set_sizes_contiguous(size) : impl->set_sizes_and_strides(size, stride);
  return self;
}

at::Tensor& set_storage(at::Tensor& self, c10::Storage storage) {
  const int64_t count = static_cast<int64_t>(storage.nbytes() / self.itemsize());
  return set_to(self, storage, 0, {count}, {1});
}

at::Tensor& set_storage_part(at::Tensor& self, c10::Storage storage, int64_t offset, at::IntArrayRef size,
                             at::IntArrayRef stride) {
  return set_to(self, storage, offset, size, stride);
}

at::Tensor& set_tensor(at::Tensor& self, const at::Tensor& source) {
  return set_to(self, source.storage(), source.storage_offset(), source.sizes(), source.strides());
}

// Module.to then gives a parameter new memory, as on CUDA, and the parameter stays the same object.
bool may_share_data(const at::Tensor&, const at::Tensor&) { return true; }

at::Tensor default_state() { return default_generator().get_state(); }
void set_default_state(const at::Tensor& state) { at::Generator(default_generator()).set_state(state); }
void seed_default(int64_t seed) { at::Generator(default_generator()).set_current_seed(static_cast<uint64_t>(seed)); }

// torch has forms of these in other operations, which do not know the device. Their CPU kernels serve.
constexpr const char* kOfTheCpu[] = {
    "convolution", "convolution_backward", "copy_"};

TORCH_LIBRARY_IMPL(_, PrivateUse1, library) {
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&run_on_cpu>());
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, library) {
  library.impl("empty.memory_format", &empty);
  library.impl("empty_strided", &empty_strided);
  library.impl("_efficientzerotensor", &zero_tensor);
  library.impl("set_.source_Storage", &set_storage);
  library.impl("set_.source_Storage_storage_offset", &set_storage_part);
  library.impl("set_.source_Tensor", &set_tensor);
  library.impl("_has_compatible_shallow_copy_type", &may_share_data);
  for (const char* name : kOfTheCpu) {
    library.impl(name, torch::CppFunction::makeFromBoxedFunction<&run_on_cpu>());
  }
}

TORCH_LIBRARY(pretend, library) {
  library.def("default_state() -> Tensor", &default_state);
  library.def("set_default_state(Tensor state) -> ()", &set_default_state);
  library.def("seed_default(int seed) -> ()", &seed_default);
}

TORCH_LIBRARY_IMPL(_, AutocastPrivateUse1, library) {
  library.fallback(torch::CppFunction::makeFallthrough());
}

TORCH_LIBRARY_IMPL(aten, AutocastPrivateUse1, m) {
  // torch's lists of operations for autocast on an accelerator; the macros expect the name m
  using namespace at; // NOLINT: the macros name its types
#define LOWER(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, lower_precision_fp)
#define FP32(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, fp32)
#define FP32_DTYPE(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, fp32_set_opt_dtype)
#define PROMOTE(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, promote)
  AT_FORALL_LOWER_PRECISION_FP(LOWER)
  AT_FORALL_FP32(FP32)
  AT_FORALL_FP32_SET_OPT_DTYPE(FP32_DTYPE)
  AT_FORALL_DIFFERENT_REDISPATCH_SIGNATURE(KERNEL_DIFFERENT_REDISPATCH_SIGNATURE_PRIVATEUSEONE)
  AT_FORALL_PROMOTE(PROMOTE)
}

const bool registered = [] {
  static Hooks hooks;
  at::RegisterPrivateUse1HooksInterface(&hooks);
  c10::SetAllocator(c10::DeviceType::PrivateUse1, &allocator);
  return true;
}();
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

} // namespace
