// Operator schemas. Implementations register themselves, one file per operator and device.
//
// Only PyTorch's stable ABI is used, so one binary serves many torch versions; nothing here knows
// Python.

#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(umer1_kernels, m) {
  // Softmaxes over the negatives of R rows among C candidates; see execution/protocol.py for pools and
  // coefficients. x are unscaled logits, z = scale * x; excluded int64 [R], ids int64 [R] and [C].
  //
  // logits x [R, C] -> best [R], total [R], moment [R] or [0]
  m.def(
      "row_pools(Tensor logits, Tensor scale, Tensor excluded, Tensor? row_id, "
      "Tensor? candidate_id, bool moment) -> (Tensor, Tensor, Tensor)");
  // logits x [R, C] -> best [C], total [C]
  m.def(
      "column_pools(Tensor logits, Tensor scale, Tensor excluded, Tensor? row_id, "
      "Tensor? candidate_id) -> (Tensor, Tensor)");
  // logits x [R, C] become their gradient
  m.def(
      "softmax_gradient_(Tensor(a!) logits, Tensor scale, Tensor excluded, Tensor? row_id, "
      "Tensor? candidate_id, Tensor best, Tensor row, Tensor label, Tensor? slope, "
      "Tensor? column_best, Tensor? column) -> ()");
  // The same for bfloat16 rows [R, D] and candidates [C, D], product included.
  m.def("bf16_softmax_available() -> bool");
  // -> best, total, moment, column best, column total
  m.def(
      "bf16_pools(Tensor rows, Tensor candidates, Tensor scale, Tensor excluded, Tensor? row_id, "
      "Tensor? candidate_id, bool columns, bool moment) "
      "-> (Tensor, Tensor, Tensor, Tensor, Tensor)");
  // also fills exponentials [R, C] and returns the bests they are relative to, [R, slabs]
  m.def(
      "bf16_keep(Tensor rows, Tensor candidates, Tensor scale, Tensor excluded, Tensor? row_id, "
      "Tensor? candidate_id, bool columns, bool moment, Tensor(a!) exponentials) "
      "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  // exponentials become the gradient
  m.def(
      "bf16_kept_gradient_(Tensor(a!) exponentials, Tensor scale, Tensor excluded, "
      "Tensor slab_best, Tensor best, Tensor row, Tensor label, Tensor? column_best, "
      "Tensor? column) -> ()");
  // the gradient -> out [R, C] bfloat16, product made again
  m.def(
      "bf16_gradient_(Tensor rows, Tensor candidates, Tensor scale, Tensor excluded, "
      "Tensor? row_id, Tensor? candidate_id, Tensor best, Tensor row, Tensor label, "
      "Tensor? slope, Tensor? column_best, Tensor? column, Tensor(a!) out) -> ()");
  // similarities [R, C] of either side's rows with the other side's candidates, validity bool [R]
  // and [C] (none: all), threshold (none: the fixed one) -> reward, advantage, rank, gap [2, N, G]
  m.def(
      "group_reward(Tensor of_query, Tensor of_target, Tensor? query_valid, Tensor? target_valid, "
      "Tensor? all_query_valid, Tensor? all_target_valid, Tensor? threshold, int group_size, "
      "int first_group, int kind) -> (Tensor, Tensor, Tensor, Tensor)");
  // hidden [R, H], input_ids int64 [R], begin and end int64 [B] -> vectors [B, H], index [B], norm
  // [B]
  m.def(
      "gather_hidden(Tensor hidden, Tensor input_ids, Tensor begin, Tensor end, int token_id, "
      "bool last, bool normalize) -> (Tensor, Tensor, Tensor)");
  // adds the gradient of hidden [R, H] to the B rows it belongs to
  m.def(
      "gather_hidden_backward_(Tensor(a!) hidden_grad, Tensor grad, Tensor vectors, Tensor index, "
      "Tensor norm, bool normalize) -> ()");
  // One query per row against paged keys and values; see umer1_kernels/decode_attention.py.
  //
  // query [B, Hq, D], pages [pages, Hkv, page length, D], tables and lengths int32 -> [B, Hq, D]
  m.def(
      "decode_attention(Tensor query, Tensor key_pages, Tensor value_pages, Tensor prefix_table, "
      "Tensor prefix_length, Tensor prefix_of, Tensor suffix_table, Tensor suffix_length, "
      "float scale, int split) -> Tensor");
  // key and value [T, Hkv, D] -> place position[t] of row table_row[t] (default t) of the table
  m.def(
      "append_kv_(Tensor key, Tensor value, Tensor(a!) key_pages, Tensor(b!) value_pages, "
      "Tensor table, Tensor position, Tensor? table_row) -> ()");
  // logits [B, V], settings [B] -> token int64 [B], log-probability float32 [B]
  m.def(
      "sample_tokens(Tensor logits, Tensor seed, Tensor step, Tensor temperature, Tensor top_p, "
      "Tensor top_k, Tensor forced) -> (Tensor, Tensor)");
  // A forward without gradients; see umer1_kernels/inference.py.
  //
  // rows [T, H], weight [H] -> [T, H]
  m.def("rms_norm(Tensor rows, Tensor weight, float eps) -> Tensor");
  // rows [gate | up] [T, 2F] -> [T, F]
  m.def("swiglu(Tensor gate_up) -> Tensor");
  m.def("quick_gelu(Tensor numbers) -> Tensor");
  // fused [T, heads, D], rotation complex64 [T, 1, D / 2]
  m.def("rotate_heads_(Tensor(a!) fused, int rotated, Tensor rotation) -> ()");
  // bfloat16 query [T, Hq, D], key and value [T, Hkv, D], cu_seqlens int32 [B + 1] -> [T, Hq, D]
  m.def(
      "packed_attention(Tensor query, Tensor key, Tensor value, Tensor cu_seqlens, bool causal, "
      "float scale) -> Tensor");
}
