// Paged attention and packed linear layers for CPUs, as operators that a compiled graph may call.
//
// What a call needs beyond its arguments (blocks, slots, packed weights) is the state of one model, which the engine
// thread selects with `begin_step`: a graph then holds no address and no weight, and serves every step.
// Shape suffixes: T tokens of the batch, R decode rows, N heads, K key/value heads, G = N / K, D head size, L positions.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "decode_math.h"

namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

struct Linear {
  Tensor weight;  // as oneDNN wants it
  OptionalTensor bias;
};

// One request's prompt chunk: tokens [start, end) of the batch, the first of which has position `num_past`.
struct Span {
  int64_t start, end, num_past;
  Tensor blocks;
};

struct State {
  std::vector<Tensor> keys, values;  // [num_blocks, block_size, K, D] of each layer
  std::shared_ptr<std::vector<Linear>> linears;  // of the model: states over other caches share them
  Tensor slots_T, table_RB, lengths_R;  // of the step, int64
  bool has_kin = false;                 // whether rows of the step are tokens of one request, which see each other
  std::vector<Span> spans;
  std::map<std::pair<size_t, int64_t>, Tensor> masks;  // by span and window
};

std::vector<std::unique_ptr<State>> states;
State* current = nullptr;

State& get_state(int64_t index) {
  TORCH_CHECK(index >= 0 && index < (int64_t)states.size() && states[index], "there is no such state");
  return *states[index];
}

State& get_current() {
  TORCH_CHECK(current, "no step has begun");
  return *current;
}

int64_t create_state(std::vector<Tensor> keys, std::vector<Tensor> values, int64_t weights_of) {
  auto state = std::make_unique<State>();
  state->linears = weights_of < 0 ? std::make_shared<std::vector<Linear>>() : get_state(weights_of).linears;
  state->keys = std::move(keys);
  state->values = std::move(values);
  states.push_back(std::move(state));
  return (int64_t)states.size() - 1;
}

void free_state(int64_t index) {
  if (current == &get_state(index)) current = nullptr;
  states[index].reset();
}

void set_linear(int64_t state, int64_t index, const Tensor& weight, const OptionalTensor& bias) {
  auto& linears = *get_state(state).linears;
  linears.resize(std::max(linears.size(), (size_t)index + 1));
  linears[index] = {weight, bias};
}

void begin_step(int64_t index, const Tensor& slots_T, const Tensor& table_RB, const Tensor& lengths_R,
                std::vector<int64_t> spans, std::vector<Tensor> span_blocks, bool has_kin) {
  State& state = get_state(index);
  state.slots_T = slots_T.contiguous();
  state.table_RB = table_RB.contiguous();
  state.lengths_R = lengths_R.contiguous();
  state.has_kin = has_kin;
  state.spans.clear();
  state.masks.clear();
  for (size_t i = 0; i < span_blocks.size(); i++)
    state.spans.push_back({spans[3 * i], spans[3 * i + 1], spans[3 * i + 2], span_blocks[i]});
  current = &state;
}

// --- Decodes --------------------------------------------------------------------------------------------------------

// New keys and values of tokens [start, end) go to their slots; a negative slot is padding.
template <typename T>
void store_tokens(const Tensor& new_KTD, Tensor& cache, const int64_t* slots, int64_t start, int64_t end, int64_t head) {
  const int64_t K = cache.size(2), D = cache.size(3);
  const T* source = new_KTD.const_data_ptr<T>() + head * new_KTD.stride(0);
  T* target = cache.data_ptr<T>() + head * D;
  for (int64_t t = start; t < end; t++)
    if (slots[t] >= 0) std::memcpy(target + slots[t] * K * D, source + t * new_KTD.stride(1), D * sizeof(T));
}

template <typename T>
void attend_decodes(State& state, const Tensor& query_NTD, const Tensor& key_KTD, const Tensor& value_KTD, int64_t layer,
                    const Rules& rules, const float* sinks_N, Tensor& out_TND) {
  Tensor &keys = state.keys[layer], &values = state.values[layer];
  const int64_t R = state.lengths_R.size(0), K = keys.size(2), G = query_NTD.size(0) / K;
  const int64_t D = keys.size(3), DV = values.size(3), block_size = keys.size(1), num_blocks = state.table_RB.size(1);
  const int64_t* lengths = state.lengths_R.const_data_ptr<int64_t>();
  const int64_t* slots = state.slots_T.const_data_ptr<int64_t>();
  at::parallel_for(0, R * K, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> query_GD(G * D), out_GD(G * DV), memory;
    for (int64_t item = begin; item < end; item++) {
      const int64_t row = item / K, head = item % K, length = lengths[row];
      T* out = out_TND.data_ptr<T>() + row * out_TND.stride(1) + head * G * DV;
      if (length <= 0) {
        std::fill(out, out + G * DV, T(0));
        continue;
      }
      if (!state.has_kin) {
        store_tokens<T>(key_KTD, keys, slots, row, row + 1, head);
        store_tokens<T>(value_KTD, values, slots, row, row + 1, head);
      }
      for (int64_t g = 0; g < G; g++) {
        const T* source = query_NTD.const_data_ptr<T>() + (head * G + g) * query_NTD.stride(0) + row * query_NTD.stride(1);
        for (int64_t d = 0; d < D; d++) query_GD[g * D + d] = to_float(source[d]);
      }
      const int64_t first = rules.window > 0 ? std::max<int64_t>(0, length - rules.window) : 0, num = length - first;
      const int64_t* table = state.table_RB.const_data_ptr<int64_t>() + row * num_blocks;
      // From a whole vector's address on, so that loops over scores are cut alike wherever the memory lies.
      memory.resize(G * num + 16);
      float* scores = memory.data() + (64 - (uintptr_t)memory.data() % 64) % 64 / sizeof(float);
      with_num_vectors(D, [&](auto num_vectors) {
        const Blocks blocks{table, block_size, block_size * K * D, K * D};
        score_keys<T, num_vectors.value>(query_GD.data(), keys.const_data_ptr<T>() + head * D, blocks, first, length, G, D,
                                   scores);
      });
      for (int64_t g = 0; g < G; g++)
        weigh(scores + g * num, num, rules, sinks_N ? sinks_N + head * G + g : nullptr);
      with_num_vectors(DV, [&](auto num_vectors) {
        const Blocks blocks{table, block_size, block_size * K * DV, K * DV};
        sum_values<T, num_vectors.value>(scores, values.const_data_ptr<T>() + head * DV, blocks, first, length, G, DV,
                                   out_GD.data());
      });
      for (int64_t i = 0; i < G * DV; i++) out[i] = T(out_GD[i]);
    }
  });
}

// --- Few shapes -----------------------------------------------------------------------------------------------------

// In half precision matrix products and fused attention make code for every shape that they meet, and keep it: a worker
// would grow by half a gigabyte before it had met most lengths of prompts.
constexpr int64_t ROWS_STEP = 32;

int64_t round_rows(int64_t num_rows, const Tensor& x) {
  return x.scalar_type() == at::kFloat ? num_rows : (num_rows + ROWS_STEP - 1) / ROWS_STEP * ROWS_STEP;
}

// Zeros behind the last row, the rows being the last dimension but one.
Tensor pad_rows(const Tensor& x, int64_t num_rows) {
  const int64_t missing = num_rows - x.size(-2);
  return missing ? at::constant_pad_nd(x, {0, 0, 0, missing}) : x;
}

// --- Prompt chunks --------------------------------------------------------------------------------------------------

// [Q, L]. Of rows that are padding it holds what it would if the chunk were so much longer.
const Tensor& get_mask(State& state, size_t index, int64_t window, int64_t Q, int64_t L) {
  Tensor& mask = state.masks[{index, window}];
  if (!mask.defined()) {
    const int64_t num_past = state.spans[index].num_past;
    const Tensor queries = at::arange(num_past, num_past + Q).unsqueeze(1);
    const Tensor keys = at::arange(L).unsqueeze(0);
    mask = keys <= queries;
    if (window > 0) mask = mask & (keys > queries - window);
  }
  return mask;
}

// Weights with what fused kernels lack: a soft cap on the scores, a learned sink beside the keys.
Tensor attend_by_hand(const Tensor& query_KGQD, const Tensor& key_KGLD, const Tensor& value_KGLD, const Tensor& mask_QL,
                      const Rules& rules, const OptionalTensor& sinks_N) {
  Tensor scores = at::matmul(query_KGQD, key_KGLD.transpose(-1, -2)) * rules.scale;
  if (rules.softcap != 0) scores = at::tanh(scores / rules.softcap) * rules.softcap;
  scores = scores.to(at::kFloat).masked_fill(~mask_QL, -std::numeric_limits<float>::infinity());
  if (sinks_N) {
    const Tensor sinks = sinks_N->to(at::kFloat).view({scores.size(0), scores.size(1), 1, 1});
    scores = at::cat({scores, sinks.expand({scores.size(0), scores.size(1), scores.size(2), 1})}, -1);
  }
  const Tensor weights = at::softmax(scores, -1).narrow(-1, 0, key_KGLD.size(2));
  return at::matmul(weights.to(value_KGLD.scalar_type()), value_KGLD);
}

void attend_span(State& state, size_t index, const Tensor& query_NTD, const Tensor& key_KTD, const Tensor& value_KTD,
                 int64_t layer, const Rules& rules, const OptionalTensor& sinks_N, Tensor& out_TND) {
  const Span& span = state.spans[index];
  const int64_t Q = span.end - span.start, L = span.num_past + Q, K = key_KTD.size(0), G = query_NTD.size(0) / K;
  Tensor key_KLD = key_KTD.narrow(1, span.start, Q), value_KLD = value_KTD.narrow(1, span.start, Q);
  if (span.num_past > 0) {
    key_KLD = state.keys[layer].index_select(0, span.blocks).flatten(0, 1).narrow(0, 0, L).transpose(0, 1);
    value_KLD = state.values[layer].index_select(0, span.blocks).flatten(0, 1).narrow(0, 0, L).transpose(0, 1);
  }
  const int64_t Q_ = round_rows(Q, query_NTD), L_ = span.num_past ? round_rows(L, query_NTD) : Q_;
  const Tensor query_KGQD = pad_rows(query_NTD.narrow(1, span.start, Q), Q_).unflatten(0, {K, G});
  key_KLD = pad_rows(key_KLD, L_), value_KLD = pad_rows(value_KLD, L_);
  // Query heads that share a key head see it through a stride of 0: nothing is repeated.
  const Tensor key_KGLD = key_KLD.unsqueeze(1).expand({K, G, L_, key_KLD.size(2)});
  const Tensor value_KGLD = value_KLD.unsqueeze(1).expand({K, G, L_, value_KLD.size(2)});
  const bool is_plain = rules.softcap == 0 && !sinks_N;
  const bool is_causal = is_plain && span.num_past == 0 && (rules.window == 0 || rules.window >= L);
  OptionalTensor mask;
  if (!is_causal) mask = get_mask(state, index, rules.window, Q_, L_);
  Tensor out_KGQD;
  if (is_plain) {
    out_KGQD = at::scaled_dot_product_attention(query_KGQD, key_KGLD, value_KGLD, mask, 0.0, is_causal, rules.scale);
  } else {
    out_KGQD = attend_by_hand(query_KGQD, key_KGLD, value_KGLD, *mask, rules, sinks_N);
  }
  out_TND[0].narrow(0, span.start, Q).copy_(out_KGQD.narrow(2, 0, Q).flatten(0, 1).transpose(0, 1));
}

// --- Operators ------------------------------------------------------------------------------------------------------

Tensor with_dense_heads(const Tensor& x) { return x.stride(-1) == 1 ? x : x.contiguous(); }

template <typename T>
void attend_as(State& state, const Tensor& query, const Tensor& key, const Tensor& value, int64_t layer,
               const Rules& rules, const OptionalTensor& sinks_N, Tensor& out) {
  const int64_t R = state.lengths_R.size(0), T_ = query.size(1), K = key.size(0);
  Tensor sinks;
  if (sinks_N) sinks = sinks_N->to(at::kFloat).contiguous();
  const int64_t* slots = state.slots_T.const_data_ptr<int64_t>();
  // A decode stores its own token while it is attended, unless another row looks at it.
  const int64_t first = state.has_kin ? 0 : R;
  if (T_ > first)
    at::parallel_for(0, K, 1, [&](int64_t begin, int64_t end) {
      for (int64_t head = begin; head < end; head++) {
        store_tokens<T>(key, state.keys[layer], slots, first, T_, head);
        store_tokens<T>(value, state.values[layer], slots, first, T_, head);
      }
    });
  attend_decodes<T>(state, query, key, value, layer, rules, sinks_N ? sinks.const_data_ptr<float>() : nullptr, out);
  for (size_t i = 0; i < state.spans.size(); i++)
    attend_span(state, i, query, key, value, layer, rules, sinks_N, out);
}

// Store the new keys and values of all tokens, then attend each to its own request's past: [1, T, N, D].
Tensor attend(const Tensor& query_1NTD, const Tensor& key_1KTD, const Tensor& value_1KTD, int64_t layer, double scale,
              int64_t window, double softcap, const OptionalTensor& sinks_N) {
  State& state = get_current();
  const Tensor query = with_dense_heads(query_1NTD[0]), key = with_dense_heads(key_1KTD[0]);
  const Tensor value = with_dense_heads(value_1KTD[0]);
  TORCH_CHECK(query.size(1) == state.slots_T.size(0), "the step has another number of tokens");
  const Rules rules{(float)scale, (float)softcap, window};
  Tensor out = at::empty({1, query.size(1), query.size(0), value.size(2)}, query.options());
  if (query.scalar_type() == at::kFloat)
    attend_as<float>(state, query, key, value, layer, rules, sinks_N, out);
  else if (query.scalar_type() == at::kBFloat16)
    attend_as<at::BFloat16>(state, query, key, value, layer, rules, sinks_N, out);
  else
    TORCH_CHECK(false, "attention is in float32 or bfloat16");
  return out;
}

// x times the weights (and plus the bias) that were set as number `index`.
Tensor linear(const Tensor& x, int64_t index, int64_t num_outputs) {
  using Signature = Tensor(const Tensor&, const Tensor&, const OptionalTensor&, std::string_view,
                           c10::List<std::optional<at::Scalar>>, std::optional<std::string_view>);
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("mkldnn::_linear_pointwise", "")
                             .typed<Signature>();
  const Linear& layer = get_current().linears->at(index);
  if (!layer.weight.is_mkldnn()) return at::linear(x, layer.weight, layer.bias);
  const int64_t T_ = x.size(-2);
  // As few rows as decodes have are worth code of their own.
  const Tensor padded = T_ > ROWS_STEP ? pad_rows(x.contiguous(), round_rows(T_, x)) : x.contiguous();
  const Tensor out = op.call(padded, layer.weight, layer.bias, "none", c10::List<std::optional<at::Scalar>>(), "");
  return out.narrow(-2, 0, T_);
}

}  // namespace

TORCH_LIBRARY(atrium, m) {
  m.def("create_state(Tensor[] keys, Tensor[] values, int weights_of) -> int", &create_state);
  m.def("free_state(int state) -> ()", &free_state);
  m.def("set_linear(int state, int index, Tensor weight, Tensor? bias) -> ()", &set_linear);
  m.def("begin_step(int state, Tensor slots, Tensor table, Tensor lengths, int[] spans, Tensor[] span_blocks, "
        "bool has_kin) -> ()",
        &begin_step);
  m.def("attend(Tensor query, Tensor key, Tensor value, int layer, float scale, int window, float softcap, "
        "Tensor? sinks) -> Tensor");
  m.def("linear(Tensor x, int index, int num_outputs) -> Tensor");
}

TORCH_LIBRARY_IMPL(atrium, CPU, m) {
  m.impl("attend", &attend);
  m.impl("linear", &linear);
}
