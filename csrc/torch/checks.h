// Tensors through LibTorch's stable ABI: argument checks whose text names the argument and its value, memory
// formats, and outputs. The stable ABI has no memory_format(), so it is computed from the strides here.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstring>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "../common/poison.h"

namespace cnnext {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Sizes = std::vector<int64_t>;

// Throws what Python sees as a RuntimeError, with nothing but the given words in it.
template <typename... Words>
void check(bool condition, const Words&... words) {
  if (condition) return;
  std::ostringstream text;
  (text << ... << words);
  throw std::runtime_error(text.str());
}

// A list of sizes among the words of a check. The text is made only where the check fails: to make it costs
// more than a small kernel.
struct SizesText {
  const Sizes& values;
};

inline std::ostream& operator<<(std::ostream& text, const SizesText& sizes) {
  text << "[";
  for (size_t i = 0; i < sizes.values.size(); ++i) text << (i ? ", " : "") << sizes.values[i];
  return text << "]";
}

inline SizesText to_text(const Sizes& values) { return {values}; }

inline Sizes sizes_of(const Tensor& tensor) {
  const auto sizes = tensor.sizes();
  return Sizes(sizes.begin(), sizes.end());
}

struct ShapeText {
  const Tensor& tensor;
};

inline std::ostream& operator<<(std::ostream& text, const ShapeText& shape) {
  return text << to_text(sizes_of(shape.tensor));
}

inline ShapeText shape_text(const Tensor& tensor) { return {tensor}; }

inline void check_rank(const Tensor& tensor, const char* name, int64_t rank) {
  check(tensor.dim() == rank, "expected `", name, "` with ", rank, " dimensions, but got shape ",
        shape_text(tensor));
}

inline void check_shape(const Tensor& tensor, const char* name, const Sizes& wanted) {
  if (sizes_of(tensor) == wanted) return;
  check(false, "expected `", name, "` of shape ", to_text(wanted), ", but got shape ", shape_text(tensor));
}

inline void check_same_dtype(const Tensor& tensor, const char* name, const Tensor& other,
                             const char* other_name) {
  check(tensor.scalar_type() == other.scalar_type(), "expected `", name, "` and `", other_name,
        "` of one dtype, but got ", toString(tensor.scalar_type()), " and ", toString(other.scalar_type()));
}

// The check_device of the shared checks for kernels on the CPU; CUDA's is in cuda/context.h.
inline void check_on_cpu(const Tensor& tensor, const char* name, const Tensor&, const char* other_name) {
  check(tensor.is_cpu(), "expected `", name, "` on the CPU, as `", other_name, "` is");
}

inline void check_pair(const Sizes& pair, const char* name, int64_t at_least) {
  if (pair.size() == 2 && pair[0] >= at_least && pair[1] >= at_least) return;
  check(false, "expected `", name, "` to be two integers of at least ", at_least, ", but got ",
        to_text(pair));
}

// Whether the strides order the memory as N, H, W, C, by the rule of torch's suggest_memory_format(): sizes
// of one leave the question open and the answer is then no.
// (Source: is_channels_last_strides_2d in c10/core/MemoryFormat.h)
inline bool is_channels_last(const Tensor& tensor) {
  if (tensor.dim() != 4 || tensor.stride(1) == 0) return false;
  int64_t smallest = 0;
  for (int d : {1, 3, 2, 0}) {
    const int64_t size = tensor.size(d), stride = tensor.stride(d);
    if (size == 0 || stride < smallest) return false;
    if (d == 0 && smallest == tensor.stride(1)) return false;
    smallest = stride * (size > 1 ? size : 1);
  }
  return true;
}

inline Tensor contiguous_as(const Tensor& tensor, bool channels_last) {
  if (!channels_last) return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
  const int64_t c = tensor.size(1), h = tensor.size(2), w = tensor.size(3);
  const bool already = (c == 1 || tensor.stride(1) == 1) && (w == 1 || tensor.stride(3) == c) &&
                       (h == 1 || tensor.stride(2) == w * c) &&
                       (tensor.size(0) == 1 || tensor.stride(0) == h * w * c);
  return already ? tensor : torch::stable::contiguous(tensor, MemoryFormat::ChannelsLast);
}

// An unwritten tensor on the device of `like`, dense in the order N, C, H, W or N, H, W, C.
inline Tensor empty(const Tensor& like, const Sizes& sizes, ScalarType dtype, bool channels_last = false) {
  Sizes strides(sizes.size(), 1);
  int64_t step = 1;
  const auto place = [&](size_t d) {
    strides[d] = step;
    step *= sizes[d] > 1 ? sizes[d] : 1;
  };
  if (channels_last) {
    for (size_t d : {1, 3, 2, 0}) place(d);
  } else {
    for (size_t d = sizes.size(); d-- > 0;) place(d);
  }
  int32_t device_type;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  const int32_t device_index = like.is_cpu() ? 0 : like.get_device_index();
  const int32_t raw_dtype = torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype));
  AtenTensorHandle handle;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(static_cast<int64_t>(sizes.size()), sizes.data(),
                                                  strides.data(), raw_dtype, device_type, device_index,
                                                  &handle));
  const Tensor tensor(handle);
  if (poison_requested() && tensor.is_cpu()) {
    int64_t bytes = 0;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_storage_size(handle, &bytes));
    if (bytes > 0) std::memset(tensor.mutable_data_ptr(), kPoison, static_cast<size_t>(bytes));
  }
  return tensor;
}

inline Tensor empty(const Tensor& like, const Sizes& sizes, bool channels_last = false) {
  return empty(like, sizes, like.scalar_type(), channels_last);
}

}  // namespace cnnext
