// Operator schemas. Implementations register themselves, one file per operator and device.
//
// Only PyTorch's stable ABI is used, so one binary serves many torch versions; nothing here knows
// Python.

#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(umer1_kernels, m) {
  // logits [N, C] unscaled, excluded int64 [N], ids int64 [N] and [C] -> best x [N], sum [N] of
  // exp(scale * (x - best)) over the negatives
  m.def(
      "nce_row_pool(Tensor logits, Tensor scale, Tensor excluded, Tensor? row_id, "
      "Tensor? candidate_id) -> (Tensor, Tensor)");
  // logits [N, C] unscaled -> coefficient [N] * exp(scale * (x - best)) of the negatives,
  // 0 elsewhere, in place
  m.def(
      "nce_row_gradient_(Tensor(a!) logits, Tensor scale, Tensor excluded, Tensor? row_id, "
      "Tensor? candidate_id, Tensor best, Tensor coefficient) -> ()");
  // similarity [R, C], validity bool [R] and [C] -> rank [R], gap [R], share [R]
  m.def(
      "group_reward_scores(Tensor similarity, Tensor row_valid, Tensor candidate_valid, "
      "Tensor threshold, int group_size, int first_group) -> (Tensor, Tensor, Tensor)");
  // hidden [R, H], input_ids int64 [R], begin and end int64 [B] -> vectors [B, H], index [B], norm
  // [B]
  m.def(
      "gather_hidden(Tensor hidden, Tensor input_ids, Tensor begin, Tensor end, int token_id, "
      "bool last, bool normalize) -> (Tensor, Tensor, Tensor)");
  // adds the gradient of hidden [R, H] to the B rows it belongs to
  m.def(
      "gather_hidden_backward_(Tensor(a!) hidden_grad, Tensor grad, Tensor vectors, Tensor index, "
      "Tensor norm, bool normalize) -> ()");
}
