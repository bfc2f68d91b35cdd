// mma.sync and ldmatrix. Fragment layouts: PTX ISA, "Matrix fragments for mma.m16n8k16 with floating point
// type", "… mma.m16n8k8" and "ldmatrix".
#include <cuda_fp16.h>
#include <emulator/tensor_core.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "access_log.h"
#include "collective.h"
#include "machine.h"
#include "memory_check.h"

namespace emulator {
namespace {

constexpr int kM = 16, kN = 8;

struct MmaOperand {
  const uint32_t *a, *b;
  const float* c;
  float* d;
};

// __half2float of the CUDA headers takes its time; 65536 values are soon known by heart.
const std::vector<float>& half_table() {
  static const std::vector<float> table = [] {
    std::vector<float> values(65536);
    for (unsigned bits = 0; bits < values.size(); ++bits) {
      __half_raw raw;
      raw.x = static_cast<unsigned short>(bits);
      values[bits] = __half2float(__half(raw));
    }
    return values;
  }();
  return table;
}

float float_of(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

struct F16 {
  static constexpr int kPerRegister = 2;
  static float element(uint32_t bits, int i) { return half_table()[bits >> (16 * i) & 0xffff]; }
};
struct Bf16 {
  static constexpr int kPerRegister = 2;
  static float element(uint32_t bits, int i) { return float_of(i == 0 ? bits << 16 : bits & 0xffff0000u); }
};
struct Tf32 {
  static constexpr int kPerRegister = 1;
  static float element(uint32_t bits, int) {
    return float_of(bits & 0xffffe000u);
  }  // the low bits are not read
};

template <class Type, int K>
void apply_mma(void* const* operands, uint32_t) {
  constexpr int kPer = Type::kPerRegister;
  constexpr int kRegistersA = kM * K / kWarpLanes / kPer, kRegistersB = kN * K / kWarpLanes / kPer;
  float a[kM][K], b[K][kN], d[kM][kN] = {};
  for (int lane = 0; lane < kWarpLanes; ++lane) {
    const auto& operand = *static_cast<const MmaOperand*>(operands[lane]);
    const int group = lane / 4, member = lane % 4;
    for (int i = 0; i < kPer; ++i) {
      for (int r = 0; r < kRegistersA; ++r) {
        a[group + r % 2 * 8][member * kPer + i + r / 2 * 4 * kPer] = Type::element(operand.a[r], i);
      }
      for (int r = 0; r < kRegistersB; ++r) {
        b[member * kPer + i + r * 4 * kPer][group] = Type::element(operand.b[r], i);
      }
    }
  }
  for (int m = 0; m < kM; ++m) {
    for (int k = 0; k < K; ++k) {
      for (int n = 0; n < kN; ++n) {
        d[m][n] += a[m][k] * b[k][n];
      }
    }
  }
  for (int lane = 0; lane < kWarpLanes; ++lane) {
    const auto& operand = *static_cast<const MmaOperand*>(operands[lane]);
    for (int r = 0; r < 4; ++r) {
      operand.d[r] = operand.c[r] + d[lane / 4 + r / 2 * 8][lane % 4 * 2 + r % 2];
    }
  }
  ++machine.counters->mma;
  machine.counters->mma_flops += 2ull * kM * kN * K;
}

struct LoadMatrixOperand {
  uint32_t* registers;
  const char* row;
  int matrices;
  bool transposed;
  const void* code;
};

void load_tile(void* const* operands, const LoadMatrixOperand& load, int tile) {
  uint16_t values[8][8];
  LaneAccess accesses[8];
  for (int row = 0; row < 8; ++row) {
    const int lane = tile * 8 + row;
    const char* address = static_cast<const LoadMatrixOperand*>(operands[lane])->row;
    check_access_of_lane(lane, address, 16, load.code);
    std::memcpy(values[row], address, 16);
    accesses[row] = {row, reinterpret_cast<uintptr_t>(address), 16};
  }
  for (int lane = 0; lane < kWarpLanes; ++lane) {
    const int i = lane / 4, j = lane % 4 * 2;
    const uint32_t low = load.transposed ? values[j][i] : values[i][j];
    const uint32_t high = load.transposed ? values[j + 1][i] : values[i][j + 1];
    static_cast<LoadMatrixOperand*>(operands[lane])->registers[tile] = low | high << 16;
  }
  if (machine.sampled) {
    int ideal = 0;
    machine.counters->shared_load_wavefronts += static_cast<uint64_t>(shared_wavefronts(accesses, 8, ideal));
    machine.counters->shared_load_ideal_wavefronts += static_cast<uint64_t>(ideal);
  }
}

void apply_load_matrix(void* const* operands, uint32_t) {
  const auto load = *static_cast<const LoadMatrixOperand*>(operands[0]);
  for (int tile = 0; tile < load.matrices; ++tile) {
    load_tile(operands, load, tile);
  }
  ++machine.counters->ldmatrix;
  machine.counters->shared_load_requests += machine.sampled;
}

}  // namespace

void mma(Mma kind, float* d, const uint32_t* a, const uint32_t* b, const float* c, Site site) {
  MmaOperand operand{a, b, c, d};
  constexpr void (*kApply[])(void* const*, uint32_t) = {apply_mma<F16, 16>, apply_mma<Bf16, 16>,
                                                        apply_mma<F16, 8>, apply_mma<Tf32, 8>};
  const int variant = static_cast<int>(kind);
  meet_whole_warp("mma.sync", variant, site, __builtin_return_address(0), &operand, kApply[variant]);
}

void load_matrix(int matrices, bool transposed, uint32_t* registers, const void* row, Site site) {
  const void* code = __builtin_return_address(0);
  const bool used = machine.current->lane < 8 * matrices;
  if (used && reinterpret_cast<uintptr_t>(row) % 16 != 0) {
    raise(FaultKind::kMisaligned, "ldmatrix from a row that is not aligned to 16 bytes", code, site);
  }
  LoadMatrixOperand operand{registers, static_cast<const char*>(row), matrices, transposed, code};
  meet_whole_warp("ldmatrix", matrices * 2 + transposed, site, code, &operand, apply_load_matrix);
}

}  // namespace emulator
