// The best logit of every row and where it is, in one pass over the type the model gives: an operator for CPUs.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <limits>
#include <tuple>
#include <vector>

#include "decode_math.h"

namespace {

using at::Tensor;

constexpr int64_t PIECE = 4096;  // numbers one thread takes at a time, so that a single row has work for all

// The maximum of n numbers; NaN if any of them is.
template <typename T>
float find_maximum(const T* x, int64_t n) {
  float best = -std::numeric_limits<float>::infinity();
  int broken = 0;
#pragma omp simd reduction(max : best) reduction(| : broken)
  for (int64_t i = 0; i < n; i++) {
    const float value = to_float(x[i]);
    best = value > best ? value : best;
    broken |= value != value;
  }
  return broken ? std::numeric_limits<float>::quiet_NaN() : best;
}

template <typename T>
void find_all(const Tensor& x_RV, float* values_R, int64_t* indices_R) {
  const int64_t R = x_RV.size(0), V = x_RV.size(1), P = (V + PIECE - 1) / PIECE;
  const T* x = x_RV.const_data_ptr<T>();
  std::vector<float> maxima_RP(R * P);
  at::parallel_for(0, R * P, 4, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      const int64_t start = i % P * PIECE;
      maxima_RP[i] = find_maximum(x + i / P * V + start, std::min(PIECE, V - start));
    }
  });
  for (int64_t row = 0; row < R; row++) {
    const float* maxima = maxima_RP.data() + row * P;
    const float best = find_maximum(maxima, P);
    // Only the piece that holds it is searched. Where numbers are broken, the first one is as good as any.
    int64_t index = best == best ? (std::find(maxima, maxima + P, best) - maxima) * PIECE : 0;
    while (best == best && to_float(x[row * V + index]) != best) index++;
    values_R[row] = best, indices_R[row] = index;
  }
}

// Values [R] in float32 and indices [R] of the maxima of x [R, V], the first where several are equal; NaN and 0 of a row that has NaN.
std::tuple<Tensor, Tensor> row_maximum(const Tensor& x_RV) {
  TORCH_CHECK(x_RV.dim() == 2 && x_RV.size(1) > 0, "rows of numbers are needed");
  const Tensor x = x_RV.contiguous();
  Tensor values = at::empty({x.size(0)}, x.options().dtype(at::kFloat));
  Tensor indices = at::empty({x.size(0)}, x.options().dtype(at::kLong));
  if (x.scalar_type() == at::kFloat)
    find_all<float>(x, values.data_ptr<float>(), indices.data_ptr<int64_t>());
  else if (x.scalar_type() == at::kBFloat16)
    find_all<at::BFloat16>(x, values.data_ptr<float>(), indices.data_ptr<int64_t>());
  else
    TORCH_CHECK(false, "maxima are found in float32 or bfloat16");
  return {values, indices};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(atrium, m) { m.def("row_maximum(Tensor x) -> (Tensor, Tensor)"); }

TORCH_LIBRARY_IMPL(atrium, CPU, m) { m.impl("row_maximum", &row_maximum); }
