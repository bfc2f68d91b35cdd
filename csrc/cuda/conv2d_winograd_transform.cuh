// Winograd's minimal filtering F(m × m, 3 × 3): an output tile of m × m is made of α × α products, α = m + 2,
// instead of 9·m²:   Y = Aᵀ [ (G g Gᵀ) ⊙ (Bᵀ d B) ] A,   d the α × α input tile, g the 3 × 3 weight.
// Here are the three transforms along one axis. The points of F(4 × 4) are 0, ±3/4, ±3/2, ∞: their error is a
// quarter of that of 0, ±1, ±2, ∞, and all factors of Bᵀ and Aᵀ are exact in binary.
// Source: Lavin and Gray, "Fast algorithms for convolutional neural networks", CVPR 2016; on points: Alam et
// al., "Winograd convolution for deep neural networks: efficient point selection", 2022.
#pragma once

#include "device/platform.cuh"

namespace cnnext::winograd {

template <int kOutput>
struct Transform;

template <>
struct Transform<2> {
  static constexpr int kOutput = 2, kTile = 4;

  static CNNEXT_DEVICE void input(float (&d)[kTile]) {
    const float d0 = d[0] - d[2], d1 = d[1] + d[2], d2 = d[2] - d[1], d3 = d[1] - d[3];
    d[0] = d0, d[1] = d1, d[2] = d2, d[3] = d3;
  }
  static CNNEXT_DEVICE void weight(const float (&g)[3], float (&u)[kTile]) {
    const float even = 0.5f * (g[0] + g[2]), odd = 0.5f * g[1];
    u[0] = g[0], u[1] = even + odd, u[2] = even - odd, u[3] = g[2];
  }
  static CNNEXT_DEVICE void output(const float (&m)[kTile], float (&y)[kOutput]) {
    y[0] = m[0] + m[1] + m[2];
    y[1] = m[1] - m[2] - m[3];
  }
};

template <>
struct Transform<4> {
  static constexpr int kOutput = 4, kTile = 6;
  static constexpr float kP = 0.75f, kQ = 1.5f, kPp = kP * kP, kQq = kQ * kQ;

  static CNNEXT_DEVICE void input(float (&d)[kTile]) {
    const float even_p = d[4] - kQq * d[2], odd_p = kP * (d[3] - kQq * d[1]);
    const float even_q = d[4] - kPp * d[2], odd_q = kQ * (d[3] - kPp * d[1]);
    const float first = kPp * kQq * d[0] - (kPp + kQq) * d[2] + d[4];
    const float last = kPp * kQq * d[1] - (kPp + kQq) * d[3] + d[5];
    d[0] = first, d[1] = even_p + odd_p, d[2] = even_p - odd_p;
    d[3] = even_q + odd_q, d[4] = even_q - odd_q, d[5] = last;
  }
  static CNNEXT_DEVICE void weight(const float (&g)[3], float (&u)[kTile]) {
    constexpr float kScale0 = 1 / (kPp * kQq), kScaleP = 1 / (2 * kPp * (kPp - kQq));
    constexpr float kScaleQ = 1 / (2 * kQq * (kQq - kPp));
    const float even_p = g[0] + kPp * g[2], even_q = g[0] + kQq * g[2];
    u[0] = kScale0 * g[0];
    u[1] = kScaleP * (even_p + kP * g[1]), u[2] = kScaleP * (even_p - kP * g[1]);
    u[3] = kScaleQ * (even_q + kQ * g[1]), u[4] = kScaleQ * (even_q - kQ * g[1]);
    u[5] = g[2];
  }
  static CNNEXT_DEVICE void output(const float (&m)[kTile], float (&y)[kOutput]) {
    const float even_p = m[1] + m[2], odd_p = m[1] - m[2], even_q = m[3] + m[4], odd_q = m[3] - m[4];
    y[0] = m[0] + even_p + even_q;
    y[1] = kP * odd_p + kQ * odd_q;
    y[2] = kPp * even_p + kQq * even_q;
    y[3] = kPp * kP * odd_p + kQq * kQ * odd_q + m[5];
  }
};

// Along both axes: columns, then rows.
template <class T>
CNNEXT_DEVICE void transform_input(float (&d)[T::kTile][T::kTile]) {
#pragma unroll
  for (int column = 0; column < T::kTile; ++column) {
    float line[T::kTile];
#pragma unroll
    for (int i = 0; i < T::kTile; ++i) line[i] = d[i][column];
    T::input(line);
#pragma unroll
    for (int i = 0; i < T::kTile; ++i) d[i][column] = line[i];
  }
#pragma unroll
  for (int row = 0; row < T::kTile; ++row) T::input(d[row]);
}

template <class T>
CNNEXT_DEVICE void transform_weight(const float (&g)[3][3], float (&u)[T::kTile][T::kTile]) {
  float half[3][T::kTile];  // by column of g
#pragma unroll
  for (int column = 0; column < 3; ++column) {
    const float line[3] = {g[0][column], g[1][column], g[2][column]};
    T::weight(line, half[column]);
  }
#pragma unroll
  for (int row = 0; row < T::kTile; ++row) {
    const float line[3] = {half[0][row], half[1][row], half[2][row]};
    T::weight(line, u[row]);
  }
}

template <class T>
CNNEXT_DEVICE void transform_output(const float (&m)[T::kTile][T::kTile],
                                    float (&y)[T::kOutput][T::kOutput]) {
  float half[T::kTile][T::kOutput];
#pragma unroll
  for (int row = 0; row < T::kTile; ++row) T::output(m[row], half[row]);
#pragma unroll
  for (int column = 0; column < T::kOutput; ++column) {
    float line[T::kTile], result[T::kOutput];
#pragma unroll
    for (int i = 0; i < T::kTile; ++i) line[i] = half[i][column];
    T::output(line, result);
#pragma unroll
    for (int i = 0; i < T::kOutput; ++i) y[i][column] = result[i];
  }
}

}  // namespace cnnext::winograd
