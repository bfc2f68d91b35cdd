// Warp collectives: shuffles, votes, reductions, __syncwarp.
#pragma once

#include <emulator/qualifiers.h>
#include <emulator/site.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

namespace emulator {

enum class Shuffle { kIndex, kUp, kDown, kXor };
enum class Reduce { kAdd, kMinSigned, kMaxSigned, kMinUnsigned, kMaxUnsigned, kAnd, kOr, kXor };

EMULATOR_API void warp_sync(uint32_t mask, Site site);
EMULATOR_API uint64_t warp_shuffle(uint32_t mask, uint64_t value, int operand, int width, Shuffle kind,
                                   Site site);
EMULATOR_API uint32_t warp_ballot(uint32_t mask, bool predicate, Site site);
EMULATOR_API uint32_t warp_reduce(uint32_t mask, uint32_t value, Reduce kind, Site site);

template <class T>
__forceinline__ T shuffle(uint32_t mask, T value, int operand, int width, Shuffle kind, Site site) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 8, "a shuffle moves at most 8 bytes");
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = warp_shuffle(mask, bits, operand, width, kind, site);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

}  // namespace emulator

__forceinline__ void __syncwarp(unsigned mask = ~0u, emulator::Site site = emulator::Site::here()) {
  emulator::warp_sync(mask, site);
}
template <class T>
__forceinline__ T __shfl_sync(unsigned mask, T value, int source, int width = 32,
                              emulator::Site site = emulator::Site::here()) {
  return emulator::shuffle(mask, value, source, width, emulator::Shuffle::kIndex, site);
}
template <class T>
__forceinline__ T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32,
                                 emulator::Site site = emulator::Site::here()) {
  return emulator::shuffle(mask, value, static_cast<int>(delta), width, emulator::Shuffle::kUp, site);
}
template <class T>
__forceinline__ T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32,
                                   emulator::Site site = emulator::Site::here()) {
  return emulator::shuffle(mask, value, static_cast<int>(delta), width, emulator::Shuffle::kDown, site);
}
template <class T>
__forceinline__ T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32,
                                  emulator::Site site = emulator::Site::here()) {
  return emulator::shuffle(mask, value, lane_mask, width, emulator::Shuffle::kXor, site);
}

__forceinline__ unsigned __ballot_sync(unsigned mask, int predicate,
                                       emulator::Site site = emulator::Site::here()) {
  return emulator::warp_ballot(mask, predicate != 0, site);
}
__forceinline__ int __any_sync(unsigned mask, int predicate, emulator::Site site = emulator::Site::here()) {
  return emulator::warp_ballot(mask, predicate != 0, site) != 0;
}
__forceinline__ int __all_sync(unsigned mask, int predicate, emulator::Site site = emulator::Site::here()) {
  return emulator::warp_ballot(mask, predicate == 0, site) == 0;
}

__forceinline__ unsigned __reduce_add_sync(unsigned mask, unsigned value,
                                           emulator::Site site = emulator::Site::here()) {
  return emulator::warp_reduce(mask, value, emulator::Reduce::kAdd, site);
}
__forceinline__ int __reduce_add_sync(unsigned mask, int value,
                                      emulator::Site site = emulator::Site::here()) {
  return static_cast<int>(
      emulator::warp_reduce(mask, static_cast<unsigned>(value), emulator::Reduce::kAdd, site));
}
__forceinline__ unsigned __reduce_min_sync(unsigned mask, unsigned value,
                                           emulator::Site site = emulator::Site::here()) {
  return emulator::warp_reduce(mask, value, emulator::Reduce::kMinUnsigned, site);
}
__forceinline__ int __reduce_min_sync(unsigned mask, int value,
                                      emulator::Site site = emulator::Site::here()) {
  const auto kind = emulator::Reduce::kMinSigned;
  return static_cast<int>(emulator::warp_reduce(mask, static_cast<unsigned>(value), kind, site));
}
__forceinline__ unsigned __reduce_max_sync(unsigned mask, unsigned value,
                                           emulator::Site site = emulator::Site::here()) {
  return emulator::warp_reduce(mask, value, emulator::Reduce::kMaxUnsigned, site);
}
__forceinline__ int __reduce_max_sync(unsigned mask, int value,
                                      emulator::Site site = emulator::Site::here()) {
  const auto kind = emulator::Reduce::kMaxSigned;
  return static_cast<int>(emulator::warp_reduce(mask, static_cast<unsigned>(value), kind, site));
}
__forceinline__ unsigned __reduce_and_sync(unsigned mask, unsigned value,
                                           emulator::Site site = emulator::Site::here()) {
  return emulator::warp_reduce(mask, value, emulator::Reduce::kAnd, site);
}
__forceinline__ unsigned __reduce_or_sync(unsigned mask, unsigned value,
                                          emulator::Site site = emulator::Site::here()) {
  return emulator::warp_reduce(mask, value, emulator::Reduce::kOr, site);
}
__forceinline__ unsigned __reduce_xor_sync(unsigned mask, unsigned value,
                                           emulator::Site site = emulator::Site::here()) {
  return emulator::warp_reduce(mask, value, emulator::Reduce::kXor, site);
}
