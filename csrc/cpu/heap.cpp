// Keeps the pages of a training step from one step to the next.
//
// glibc gives the free top of its heap back to the system when it exceeds a threshold: twice the largest
// block that was mapped on its own and freed so far, at first 128 KiB. Where all tensors are small, the few
// MB that a step frees at its end go back each time and come in again page by page: a fifth of LeNet's step.
// One large block, freed when the library is loaded and never touched, takes the threshold to where it stands
// anyway in a process that has freed one large tensor. Who set the thresholds himself (mallopt,
// MALLOC_TRIM_THRESHOLD_) keeps them. (Source: "M_TRIM_THRESHOLD" and "dynamic mmap threshold" in mallopt(3))
#include <cstdlib>

namespace cnnext {
namespace {

#if defined(__GLIBC__)
__attribute__((constructor)) void raise_trim_threshold() {
  constexpr size_t kBlock = size_t{31} << 20;  // glibc learns from blocks of up to 32 MiB
  void* volatile block = std::malloc(kBlock);
  std::free(block);
}
#endif

}  // namespace
}  // namespace cnnext
