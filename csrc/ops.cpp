// Operator schemas. Implementations register themselves, one file per operator and device.
//
// Only PyTorch's stable ABI is used, so one binary serves many torch versions; nothing here knows
// Python.

#include <torch/csrc/stable/library.h>

namespace umer1 {

bool has_cuda_kernels() {
#ifdef UMER1_WITH_CUDA
  return true;
#else
  return false;
#endif
}

}  // namespace umer1

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
  // the same from the vectors of all P pairs [P, G, d] and their validity bool [P, G]
  m.def(
      "group_reward_from_vectors(Tensor query, Tensor target, Tensor? query_valid, "
      "Tensor? target_valid, Tensor? threshold, int first_pair, int pairs, int kind) "
      "-> (Tensor, Tensor, Tensor, Tensor)");
  // info_nce (one pair of sides) and dual_info_nce of at most 1408 queries [N, D] and targets [M, D]
  // in bfloat16. weight [N], or [3, N]: of gen, disc and the crossed pairs; reduction 0 mean, 1 sum,
  // 2 none; make 0 the losses alone, 1 the gradient of the logits, 2 the gradients of loss; engine 0
  // the best one here, 1 mma, 2 wgmma -> loss, gen, disc, align (one number, or [N]), metrics [sides,
  // 3], slope [4], gradient of the logits, gradients of the four inputs (those not made are empty)
  m.def(
      "small_dual_info_nce(Tensor gen_query, Tensor gen_target, Tensor? disc_query, "
      "Tensor? disc_target, Tensor? scale, float fixed_scale, Tensor? labels, int label_offset, "
      "Tensor? query_id, Tensor? target_id, Tensor? weight, bool q2t, bool t2q, "
      "bool hit_by_column, bool joint, int reduction, bool crossed, float align, int make, "
      "int engine) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, "
      "Tensor, Tensor)");
  // The gradients of gen_query, gen_target, disc_query, disc_target (bits of `needed`, lowest first)
  // and of the scale, from the upstream ones of loss, gen, disc and align
  m.def(
      "small_dual_info_nce_gradient(Tensor gen_query, Tensor gen_target, Tensor? disc_query, "
      "Tensor? disc_target, Tensor logit_grad, Tensor slope, Tensor? loss_grad, "
      "Tensor? gen_grad, Tensor? disc_grad, Tensor? align_grad, bool crossed, float align, "
      "int needed, int engine) -> (Tensor, Tensor, Tensor, Tensor, Tensor)");
  // hidden [R, H], input_ids int64 [R], begin and end int64 [B] -> vectors [B, H], index [B], norm
  // [B]
  m.def(
      "gather_hidden(Tensor hidden, Tensor input_ids, Tensor begin, Tensor end, int token_id, "
      "bool last, bool normalize) -> (Tensor, Tensor, Tensor)");
  // adds the gradient of hidden [R, H] to the B rows it belongs to (on CUDA: writes it, each row of
  // hidden to one sequence at most)
  m.def(
      "gather_hidden_backward_(Tensor(a!) hidden_grad, Tensor grad, Tensor vectors, Tensor index, "
      "Tensor norm, bool normalize) -> ()");
  // hidden [B, H], input_ids and slot_ids int64 [B], generated bool [B] -> rows of vectors float32
  // [slots, H] and of hit bool [slots]
  m.def(
      "generation_step_(Tensor(a!) vectors, Tensor(b!) hit, Tensor hidden, Tensor input_ids, "
      "Tensor slot_ids, Tensor generated, int token_id, bool normalize) -> ()");
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
  // bfloat16 rows [T, K], packed weight [panels, pairs, 64, 2], bias [N] -> [T, N], float32 if wide
  m.def(
      "packed_linear(Tensor rows, Tensor packed, Tensor? bias, int columns, bool wide) -> Tensor");
  // Whether this binary holds the CUDA kernels.
  m.def("has_cuda_kernels() -> bool");
}

STABLE_TORCH_LIBRARY_IMPL(umer1_kernels, CompositeExplicitAutograd, m) {
  m.impl("has_cuda_kernels", TORCH_BOX(&umer1::has_cuda_kernels));
}
