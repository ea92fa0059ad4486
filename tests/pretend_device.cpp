// A second device without hardware: torch's free device key (PrivateUse1) on the memory of the host.
//
// A tensor on this device holds real values. Every operation reaches `run_on_cpu`. It checks the devices of the
// arguments as CUDA does, runs the CPU kernel on CPU tensors that share the memory, and returns tensors on the device.
// So an operation gives the numbers of the CPU, and it fails where CUDA fails for a tensor on a wrong device.
//
// tests/pretend_call.h has the memory, the check of the devices, and the way of the tensors to the CPU and back.

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

#include "pretend_call.h"

namespace {

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

// ---- one operation ------------------------------------------------------------------------------------------------

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
    "convolution", "convolution_backward", "copy_", "native_group_norm", "native_layer_norm"};

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
