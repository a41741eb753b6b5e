// The arithmetic of one decode: a query head group against the keys and values of one key head, found block by block.
// It knows no tensor and no state.

#pragma once

#include <ATen/ATen.h>
#include <ATen/cpu/vec/functional.h>
#include <ATen/cpu/vec/vec.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

namespace {

using Vec = at::vec::Vectorized<float>;

inline float to_float(float x) { return x; }
inline float to_float(at::BFloat16 x) {
  uint32_t bits = (uint32_t)x.x << 16;
  float out;
  std::memcpy(&out, &bits, sizeof(out));
  return out;
}

// exp(x) for x <= 0 in a form that compilers vectorize: 2^n * p(r), after Cephes. NaN stays NaN.
inline float exp_negative(float x) {
  x = x < -87.0f ? -87.0f : x;
  float n = std::nearbyintf(x * 1.44269504088896341f);
  float r = std::fma(n, -0.693359375f, x);
  r = std::fma(n, 2.12194440e-4f, r);
  float p = 1.9875691500e-4f;
  p = std::fma(p, r, 1.3981999507e-3f);
  p = std::fma(p, r, 8.3334519073e-3f);
  p = std::fma(p, r, 4.1665795894e-2f);
  p = std::fma(p, r, 1.6666665459e-1f);
  p = std::fma(p, r, 5.0000001201e-1f);
  p = std::fma(p, r * r, r + 1.0f);
  int32_t bits = ((int32_t)n + 127) << 23;
  float scale;
  std::memcpy(&scale, &bits, sizeof(scale));
  return p * scale;
}

struct Rules {
  float scale, softcap;  // softcap 0: none
  int64_t window;        // 0: all
};

struct Blocks {
  const int64_t* table;
  int64_t block_size, block_stride, token_stride;  // strides in numbers

  int64_t offset(int64_t position) const {
    return table[position / block_size] * block_stride + (position % block_size) * token_stride;
  }
};

inline Vec load(const float* source) { return Vec::loadu(source); }
inline Vec load(const at::BFloat16* source) {
  Vec out;
  at::vec::load_fp32_from_bf16(source, out);
  return out;
}

// Calls `run` with the number of vectors in a head: a constant for usual sizes, so that they stay in registers, 0 for
// other multiples of a vector, -1 where the head is no multiple.
template <typename Run>
void with_num_vectors(int64_t D, Run run) {
  if (D % Vec::size() != 0) return run(std::integral_constant<int, -1>());
  switch (D / Vec::size()) {
    case 4: return run(std::integral_constant<int, 4>());
    case 8: return run(std::integral_constant<int, 8>());
    case 16: return run(std::integral_constant<int, 16>());
    default: return run(std::integral_constant<int, 0>());
  }
}

// Scores of G queries with one key head at positions [first, length): scores[g * num + (l - first)].
template <typename T, int NUM>
void score_keys(const float* query_GD, const T* keys, const Blocks& blocks, int64_t first, int64_t length, int64_t G,
                int64_t D, float* scores) {
  const int64_t num = length - first, num_vectors = NUM > 0 ? NUM : D / Vec::size();
  for (int64_t l = 0; l < num; l++) {
    const T* key = keys + blocks.offset(first + l);
    for (int64_t g = 0; g < G; g++) {
      const float* q = query_GD + g * D;
      float& score = scores[g * num + l];
      if constexpr (NUM < 0) {
        score = 0;
        for (int64_t d = 0; d < D; d++) score += q[d] * to_float(key[d]);
      } else {
        Vec sum(0);
        for (int64_t i = 0; i < num_vectors; i++)
          sum = at::vec::fmadd(load(q + i * Vec::size()), load(key + i * Vec::size()), sum);
        score = at::vec::vec_reduce_all<float>([](Vec x, Vec y) { return x + y; }, sum);
      }
    }
  }
}

// Scores become weights that sum to one (less with a sink, which takes a share and gives nothing).
void weigh(float* scores, int64_t num, const Rules& rules, const float* sink) {
#pragma omp simd
  for (int64_t l = 0; l < num; l++) scores[l] *= rules.scale;
  if (rules.softcap != 0)
    for (int64_t l = 0; l < num; l++) scores[l] = std::tanh(scores[l] / rules.softcap) * rules.softcap;
  float best = sink ? *sink : -std::numeric_limits<float>::infinity();
  for (int64_t l = 0; l < num; l++) best = scores[l] > best ? scores[l] : best;
  float total = sink ? exp_negative(*sink - best) : 0;
#pragma omp simd reduction(+ : total)
  for (int64_t l = 0; l < num; l++) {
    scores[l] = exp_negative(scores[l] - best);
    total += scores[l];
  }
  const float factor = 1 / total;
#pragma omp simd
  for (int64_t l = 0; l < num; l++) scores[l] *= factor;
}

// Values [first, length) of one head, weighed, for each of G queries.
template <typename T, int NUM>
void sum_values(const float* weights, const T* values, const Blocks& blocks, int64_t first, int64_t length, int64_t G,
                int64_t D, float* out_GD) {
  const int64_t num = length - first, num_vectors = NUM > 0 ? NUM : D / Vec::size();
  std::fill(out_GD, out_GD + G * D, 0.0f);
  for (int64_t g = 0; g < G; g++) {
    float* out = out_GD + g * D;
    if constexpr (NUM > 0) {
      Vec sums[NUM];
      for (int i = 0; i < NUM; i++) sums[i] = Vec(0);
      for (int64_t l = 0; l < num; l++) {
        const T* value = values + blocks.offset(first + l);
        const Vec weight(weights[g * num + l]);
        for (int i = 0; i < NUM; i++) sums[i] = at::vec::fmadd(weight, load(value + i * Vec::size()), sums[i]);
      }
      for (int i = 0; i < NUM; i++) sums[i].store(out + i * Vec::size());
    } else {
      for (int64_t l = 0; l < num; l++) {
        const T* value = values + blocks.offset(first + l);
        const float weight = weights[g * num + l];
        if constexpr (NUM < 0)
          for (int64_t d = 0; d < D; d++) out[d] += weight * to_float(value[d]);
        else
          for (int64_t i = 0; i < num_vectors; i++) {
            float* target = out + i * Vec::size();
            at::vec::fmadd(Vec(weight), load(value + i * Vec::size()), Vec::loadu(target)).store(target);
          }
      }
    }
  }
}

}  // namespace
