// choose_conv2d in words, for tools and tests: needs neither tensors nor a GPU.
#include <algorithm>
#include <cstring>

#include "conv2d_choose.h"

namespace cnnext {

// The first line is what is taken, "<algorithm>:<tile> splits <n>", each further one "<candidate>: <reason>".
static std::string explain(const Conv2dRequest& request, const char* forced) {
  std::vector<Conv2dRejection> rejections;
  const Conv2dChoice choice = choose_conv2d(request, forced, &rejections);
  std::string text = conv2d_candidate_text(request, choice) + " splits " + std::to_string(choice.splits);
  for (const Conv2dRejection& rejection : rejections)
    text += "\n" + rejection.candidate + ": " + rejection.reason;
  return text;
}

}  // namespace cnnext

// `numbers`: the 16 of Conv2dShape; pass, dtype, channels_last, allow_tf32, allow_winograd; architecture,
// multiprocessors, shared_bytes_per_block. Writes at most `size` bytes, the last a zero; returns what all of
// it takes.
extern "C" __attribute__((visibility("default"))) int64_t cnnext_conv2d_explain(const int64_t* numbers,
                                                                                const char* forced,
                                                                                char* text, int64_t size) {
  using namespace cnnext;
  const int64_t* n = numbers;
  const Conv2dShape shape{n[0], n[1], n[2],  n[3],  n[4],  n[5],  n[6],  n[7],
                          n[8], n[9], n[10], n[11], n[12], n[13], n[14], n[15]};
  const Conv2dRequest request{shape,
                              static_cast<Conv2dPass>(n[16]),
                              static_cast<Conv2dDtype>(n[17]),
                              n[18] != 0,
                              n[19] != 0,
                              n[20] != 0,
                              {static_cast<int>(n[21]), static_cast<int>(n[22]), static_cast<int>(n[23])}};
  const std::string words = explain(request, forced);
  if (size > 0) {
    const size_t length = std::min(words.size(), static_cast<size_t>(size - 1));
    std::memcpy(text, words.data(), length);
    text[length] = 0;
  }
  return static_cast<int64_t>(words.size()) + 1;
}
