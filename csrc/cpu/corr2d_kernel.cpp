// corr2d, "Dive into Deep Learning" section 7.2.   y[p, q] = Σ_{r,s} x[p + r, q + s] · kernel[r, s]
//
// Idea: a vector holds neighbouring outputs of one row, so every tap is one unaligned load and one broadcast.
#include "corr2d_kernel.h"

#include "simd/vec.h"

namespace cnnext::CNNEXT_ISA {

template <typename T>
static void forward(const Corr2dShape& shape, const T* x, const T* kernel, T* y, int64_t begin, int64_t end) {
  using C = compute_t<T>;
  for (int64_t p = begin; p < end; ++p) {
    for (int64_t q = 0; q < shape.q; q += kLanes<C>) {
      const int64_t rest = shape.q - q;
      Vec<C> sum{};
      for (int64_t r = 0; r < shape.r; ++r) {
        const T* x_row = x + (p + r) * shape.w + q;
        for (int64_t s = 0; s < shape.s; ++s) {
          sum = load_first(x_row + s, rest) * broadcast(to_compute(kernel[r * shape.s + s])) + sum;
        }
      }
      store_first(y + p * shape.q + q, sum, rest);
    }
  }
}

// grad_x[h, w] = Σ_{r,s} grad[h − r, w − s] · kernel[r, s] over the taps that fall inside. Each tap adds a
// scaled row of grad, shifted by s, to a row of sums that stays in L1.
template <typename T>
static void backward_input(const Corr2dShape& shape, const T* grad, const T* kernel, T* grad_x, void* row,
                           int64_t begin, int64_t end) {
  using C = compute_t<T>;
  C* sums = static_cast<C*>(row);
  for (int64_t h = begin; h < end; ++h) {
    for (int64_t w = 0; w < shape.w; ++w) sums[w] = 0;
    const int64_t r_first = larger<int64_t>(0, h - shape.p + 1), r_last = smaller(shape.r - 1, h);
    for (int64_t r = r_first; r <= r_last; ++r) {
      const T* grad_row = grad + (h - r) * shape.q;
      for (int64_t s = 0; s < shape.s; ++s) {
        const Vec<C> tap = broadcast(to_compute(kernel[r * shape.s + s]));
        for (int64_t q = 0; q < shape.q; q += kLanes<C>) {
          const int64_t rest = shape.q - q;
          store_first(sums + q + s, load_first(grad_row + q, rest) * tap + load_first(sums + q + s, rest),
                      rest);
        }
      }
    }
    for (int64_t w = 0; w < shape.w; w += kLanes<C>) {
      store_first(grad_x + h * shape.w + w, load_first(sums + w, shape.w - w), shape.w - w);
    }
  }
}

// grad_kernel[r, s] = Σ_{p,q} grad[p, q] · x[p + r, q + s]. Each row is summed in vector lanes, the rows in
// double, so that the error does not grow with the height of the image.
template <typename T>
static void backward_kernel(const Corr2dShape& shape, const T* grad, const T* x, T* grad_kernel,
                            int64_t begin, int64_t end) {
  using C = compute_t<T>;
  for (int64_t tap = begin; tap < end; ++tap) {
    const T* x_tap = x + tap / shape.s * shape.w + tap % shape.s;
    double total = 0;
    for (int64_t p = 0; p < shape.p; ++p) {
      Vec<C> sum{};
      for (int64_t q = 0; q < shape.q; q += kLanes<C>) {
        const int64_t rest = shape.q - q;
        sum = load_first(grad + p * shape.q + q, rest) * load_first(x_tap + p * shape.w + q, rest) + sum;
      }
      total += static_cast<double>(horizontal_sum<C>(sum));
    }
    grad_kernel[tap] = from_compute<T>(static_cast<C>(total));
  }
}

template <typename T>
const Corr2dKernels<T>& corr2d_kernels() {
  static constexpr Corr2dKernels<T> table{forward<T>, backward_input<T>, backward_kernel<T>};
  return table;
}

CNNEXT_INSTANTIATE_KERNELS(Corr2dKernels, corr2d_kernels)

}  // namespace cnnext::CNNEXT_ISA
