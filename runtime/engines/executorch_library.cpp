// ExecuTorch's runtime behind a C interface, so that Python reaches it without PyTorch.
//
// The wheel's own Python bindings take and give torch tensors. This library is compiled against the wheel's headers and
// linked with its shared libraries (pocketvlm/runtime/engines/executorch_library.py); it holds no operator and no kernel.
//
// A model is a program in memory that the caller keeps mapped. Its KV caches belong to the caller: before a method runs,
// the program's state tensors are pointed at one. Methods of a model may run in several threads, one call a method.

#include <executorch/extension/data_loader/buffer_data_loader.h>
#include <executorch/extension/module/module.h>
#include <executorch/runtime/backend/backend_options_map.h>
#include <executorch/runtime/backend/options.h>
#include <executorch/runtime/core/exec_aten/util/tensor_util.h>
#include <executorch/runtime/core/hierarchical_allocator.h>
#include <executorch/runtime/platform/platform.h>
#include <executorch/runtime/platform/runtime.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

// The wheel has the symbols of the thread pool, and not its header.
namespace executorch::extension::threadpool {
class ThreadPool {
 public:
  size_t get_thread_count() const;
  bool _unsafe_reset_threadpool(uint32_t new_thread_count);
};
ThreadPool* get_threadpool();
}  // namespace executorch::extension::threadpool

namespace {

using executorch::aten::ScalarType;
using executorch::aten::SizesType;
using executorch::aten::StridesType;
using executorch::aten::Tensor;
using executorch::aten::TensorImpl;
using executorch::aten::DimOrderType;
using executorch::extension::BufferDataLoader;
using executorch::extension::Module;
using executorch::runtime::Error;
using executorch::runtime::EValue;
using executorch::runtime::HierarchicalAllocator;
using executorch::runtime::Method;
using executorch::runtime::MethodMeta;
using executorch::runtime::Span;

constexpr int kMostDimensions = 8;
constexpr int kNotLoaded = 2;
// The runtime's last messages at level error, which say more than its codes do.
thread_local std::string last_message;

void keep_message(et_timestamp_t, et_pal_log_level_t level, const char*, const char*, size_t, const char* message,
                  size_t length) {
  if (level == et_pal_log_level_t::kError || level == et_pal_log_level_t::kFatal) {
    // The first message is nearest to the cause.
    if (last_message.empty()) last_message.assign(message, length);
  }
}

// What a method computes in, as its plan asks for it. Pages that nobody writes to take no memory, and those of the KV
// cache are never written to: its tensors are pointed elsewhere. The module's own buffers would all be filled with zeros.
class PlannedMemory {
 public:
  // Gives null where there is not enough memory, or the plan is damaged.
  static std::unique_ptr<PlannedMemory> of(const MethodMeta& meta) {
    std::unique_ptr<PlannedMemory> planned(new PlannedMemory());
    for (size_t at = 0; at < meta.num_memory_planned_buffers(); ++at) {
      const auto size = meta.memory_planned_buffer_size(at);
      if (!size.ok() || size.get() < 0) return nullptr;
      const size_t bytes = static_cast<size_t>(size.get());
      planned->owned_.emplace_back(std::calloc(bytes + kAlignment, 1), &std::free);
      if (planned->owned_.back() == nullptr) return nullptr;
      const auto start = reinterpret_cast<uintptr_t>(planned->owned_.back().get());
      const uintptr_t aligned = (start + kAlignment - 1) / kAlignment * kAlignment;
      planned->spans_.emplace_back(reinterpret_cast<uint8_t*>(aligned), bytes);
    }
    planned->allocator_ = std::make_unique<HierarchicalAllocator>(
        Span<Span<uint8_t>>(planned->spans_.data(), planned->spans_.size()));
    return planned;
  }

  HierarchicalAllocator* allocator() { return allocator_.get(); }

 private:
  static constexpr uintptr_t kAlignment = 64;
  std::vector<std::unique_ptr<void, void (*)(void*)>> owned_;
  std::vector<Span<uint8_t>> spans_;
  std::unique_ptr<HierarchicalAllocator> allocator_;
};

struct Loaded {
  std::mutex running;
  std::unique_ptr<PlannedMemory> memory;
  Method* method = nullptr;  // null: unloaded since it was found
  std::unordered_map<std::string, Tensor> states;
};

struct Model {
  std::mutex loading;
  std::unordered_map<std::string, std::shared_ptr<Loaded>> methods;
  // Ends before the memory of its methods does.
  std::unique_ptr<Module> module;
};

int fail(char* error, size_t size, const std::string& what, Error code) {
  if (error != nullptr && size > 0) {
    snprintf(error, size, "%s: %s (error 0x%x)", what.c_str(),
             last_message.empty() ? "refused" : last_message.c_str(), static_cast<unsigned>(code));
  }
  return 1;
}

std::shared_ptr<Loaded> find(Model* model, const char* name) {
  std::lock_guard<std::mutex> guard(model->loading);
  auto found = model->methods.find(name);
  return found == model->methods.end() ? nullptr : found->second;
}

}  // namespace

extern "C" {

// An argument or a result of a method: `data` has `bytes` bytes, in C order.
struct PocketVlmTensor {
  void* data;
  size_t bytes;
  int32_t dtype;  // ExecuTorch's ScalarType
  int32_t dimensions;
  int32_t sizes[kMostDimensions];
};

}  // extern "C"

namespace {

template <typename Sizes>
void describe(ScalarType type, const Sizes& sizes, PocketVlmTensor* result) {
  result->dtype = static_cast<int32_t>(type);
  result->dimensions = static_cast<int32_t>(sizes.size());
  for (size_t axis = 0; axis < sizes.size(); ++axis) result->sizes[axis] = sizes[axis];
}

}  // namespace

extern "C" {

// A piece of a KV cache, and the name of the state that it is.
struct PocketVlmState {
  const char* name;
  void* data;
  size_t bytes;
};

// Once a process, before anything else.
void pocketvlm_start() {
  static const bool once = [] {
    executorch::runtime::register_pal(executorch::runtime::PalImpl::create(keep_message, __FILE__));
    executorch::runtime::runtime_init();
    return true;
  }();
  (void)once;
}

// The number of threads of all models of this process; nothing may be running.
int pocketvlm_set_threads(uint32_t threads) {
  auto* pool = executorch::extension::threadpool::get_threadpool();
  if (pool == nullptr) return 1;
  if (pool->get_thread_count() == threads) return 0;
  return pool->_unsafe_reset_threadpool(threads) ? 0 : 1;
}

int pocketvlm_open(const void* program, size_t bytes, void** out, char* error, size_t error_size) {
  last_message.clear();
  auto model = std::make_unique<Model>();
  model->module = std::make_unique<Module>(std::make_unique<BufferDataLoader>(program, bytes));
  const Error loaded = model->module->load(executorch::runtime::Program::Verification::InternalConsistency);
  if (loaded != Error::Ok) return fail(error, error_size, "the program does not load", loaded);
  *out = model.release();
  return 0;
}

void pocketvlm_close(void* handle) { delete static_cast<Model*>(handle); }

// Load a method. With `share_weights` the methods of all programs that have a constant of one name share its packed
// form: the names have to be of the content. `workspace` is XNNPACK's WorkspaceSharingMode.
//
// The options are of this call, not of the process: with shared weights XNNPACK frees the constants of elementwise
// operators once a method is loaded, which only a program that stays mapped as a whole can take.
int pocketvlm_load(void* handle, const char* name, int share_weights, int workspace, char* error, size_t error_size) {
  last_message.clear();
  auto* model = static_cast<Model*>(handle);
  std::lock_guard<std::mutex> guard(model->loading);
  if (model->methods.count(name) != 0) return 0;
  executorch::runtime::BackendOptions<2> options;
  executorch::runtime::LoadBackendOptionsMap map;
  Error code = options.set_option("weight_cache_enabled", share_weights != 0);
  if (code == Error::Ok) code = options.set_option("workspace_sharing_mode", workspace);
  if (code == Error::Ok) code = map.set_options("XnnpackBackend", options.view());
  if (code != Error::Ok) return fail(error, error_size, name, code);
  const auto meta = model->module->method_meta(name);
  if (!meta.ok()) return fail(error, error_size, name, meta.error());
  auto loaded = std::make_shared<Loaded>();
  loaded->memory = PlannedMemory::of(meta.get());
  if (loaded->memory == nullptr) {
    last_message = "not enough memory for its activations";
    return fail(error, error_size, name, Error::MemoryAllocationFailed);
  }
  code = model->module->load_method(name, loaded->memory->allocator(), nullptr, &map);
  if (code != Error::Ok) return fail(error, error_size, name, code);
  auto method = model->module->method(name);
  if (!method.ok()) {
    model->module->unload_method(name);  // it was given memory that ends here
    return fail(error, error_size, name, method.error());
  }
  loaded->method = method.get();
  model->methods.emplace(name, std::move(loaded));
  return 0;
}

void pocketvlm_unload(void* handle, const char* name) {
  auto* model = static_cast<Model*>(handle);
  std::lock_guard<std::mutex> guard(model->loading);
  auto found = model->methods.find(name);
  if (found == model->methods.end()) return;
  const std::shared_ptr<Loaded> loaded = found->second;
  std::lock_guard<std::mutex> running(loaded->running);
  loaded->method = nullptr;
  loaded->states.clear();
  model->module->unload_method(name);
  model->methods.erase(found);
}

// Dtype and largest shape of a loaded method's input (kind 0) or output (1) at `index`, or of its state `name` (2);
// gives 1 where there is none.
int pocketvlm_describe(void* handle, const char* method_name, int kind, size_t index, const char* name,
                       PocketVlmTensor* result) {
  const std::shared_ptr<Loaded> loaded = find(static_cast<Model*>(handle), method_name);
  if (loaded == nullptr) return 1;
  std::lock_guard<std::mutex> guard(loaded->running);
  if (loaded->method == nullptr) return 1;
  if (kind == 2) {
    auto tensor = loaded->method->get_attribute(name);
    if (!tensor.ok()) return 1;
    describe(tensor.get().scalar_type(), tensor.get().sizes(), result);
    return 0;
  }
  const auto meta = loaded->method->method_meta();
  const auto tensor = kind == 0 ? meta.input_tensor_meta(index) : meta.output_tensor_meta(index);
  if (!tensor.ok() || tensor->sizes().size() > kMostDimensions) return 1;
  describe(tensor->scalar_type(), tensor->sizes(), result);
  return 0;
}

// Run a loaded method; gives 2 where it is not loaded. `result` comes back with its shape; its data must have room for what the method gives.
int pocketvlm_run(void* handle, const char* name, const PocketVlmTensor* arguments, size_t count,
                  const PocketVlmState* states, size_t state_count, PocketVlmTensor* result, char* error,
                  size_t error_size) {
  last_message.clear();
  const std::shared_ptr<Loaded> loaded = find(static_cast<Model*>(handle), name);
  if (loaded == nullptr) return kNotLoaded;
  std::lock_guard<std::mutex> guard(loaded->running);
  if (loaded->method == nullptr) return kNotLoaded;
  Method& method = *loaded->method;
  if (method.inputs_size() != count || method.outputs_size() != 1) {
    return fail(error, error_size, std::string(name) + " has other inputs or outputs", Error::InvalidArgument);
  }
  for (size_t at = 0; at < state_count; ++at) {
    const PocketVlmState& state = states[at];
    auto known = loaded->states.find(state.name);
    if (known == loaded->states.end()) {
      auto tensor = method.get_attribute(state.name);
      if (!tensor.ok()) return fail(error, error_size, state.name, tensor.error());
      known = loaded->states.emplace(state.name, tensor.get()).first;
    }
    const Error code = executorch::runtime::internal::set_tensor_data(known->second, state.data, state.bytes);
    if (code != Error::Ok) return fail(error, error_size, state.name, code);
  }
  for (size_t at = 0; at < count; ++at) {
    const PocketVlmTensor& given = arguments[at];
    SizesType sizes[kMostDimensions];
    DimOrderType order[kMostDimensions];
    StridesType strides[kMostDimensions];
    StridesType stride = 1;
    for (int axis = given.dimensions - 1; axis >= 0; --axis) {
      sizes[axis] = given.sizes[axis];
      order[axis] = static_cast<DimOrderType>(axis);
      strides[axis] = stride;
      stride *= given.sizes[axis];
    }
    TensorImpl tensor(static_cast<ScalarType>(given.dtype), given.dimensions, sizes, given.data, order, strides);
    // Inputs are planned memory: the values are copied there now.
    const Error code = method.set_input(EValue(Tensor(&tensor)), at);
    if (code != Error::Ok) return fail(error, error_size, std::string(name) + ", input " + std::to_string(at), code);
  }
  const Error code = method.execute();
  if (code != Error::Ok) return fail(error, error_size, name, code);
  const EValue& output = method.get_output(0);
  if (!output.isTensor() || output.toTensor().dim() > kMostDimensions) {
    return fail(error, error_size, std::string(name) + " gives no tensor", Error::InvalidType);
  }
  const Tensor& tensor = output.toTensor();
  if (tensor.nbytes() > result->bytes) {
    return fail(error, error_size, std::string(name) + " gives more than there is room for", Error::OutOfResources);
  }
  std::memcpy(result->data, tensor.const_data_ptr(), tensor.nbytes());
  result->bytes = tensor.nbytes();
  describe(tensor.scalar_type(), tensor.sizes(), result);
  return 0;
}

}  // extern "C"
