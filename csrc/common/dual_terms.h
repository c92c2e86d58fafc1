// From a row's pools to its loss and coefficients: execution/terms.py for one row.

#pragma once

#include "common/softmax_pool.h"

namespace umer1::dual {

// `pull` is the gradient of the own z; the coefficients are those of exp(scale (x - best)). All hold
// the row's weight; the loss does not.
struct RowTerms {
  float loss, pull, of_row, of_column;
  bool hit;
};

// How the two pools of a row make its loss.
struct Softmaxes {
  bool q2t, t2q;       // which ones count
  bool hit_by_column;  // t2q comes first
  bool joint;          // one softmax over the negatives of both
};

// log(1 + exp(m)) without cancellation.
UMER1_HOST_DEVICE inline float softplus(float margin) {
  return fmaxf(margin, 0.0f) + log1pf(expf(-fabsf(margin)));
}

UMER1_HOST_DEVICE inline float sigmoid(float margin) {
  if (margin >= 0.0f) return 1.0f / (1.0f + expf(-margin));
  const float e = expf(margin);
  return e / (1.0f + e);
}

// log(exp(a) + exp(b)).
UMER1_HOST_DEVICE inline float log_add(float one, float other) {
  const float high = fmaxf(one, other);
  if (high == -kInfinity<float>) return one + other;  // minus infinity, or NaN
  return high + logf(expf(one - high) + expf(other - high));
}

// logsumexp of a pool's z minus the own z.
UMER1_HOST_DEVICE inline float margin_of(const Pool<float>& pool, float own, float scale) {
  if (pool.total == 0.0f) return -kInfinity<float>;
  return scale * (pool.best - own) + logf(pool.total);
}

UMER1_HOST_DEVICE inline RowTerms row_terms(const Pool<float>& row, const Pool<float>& column,
                                            float own, float scale, float weight,
                                            const Softmaxes& softmaxes) {
  const float best = softmaxes.hit_by_column ? column.best : row.best;
  const float total = softmaxes.hit_by_column ? column.total : row.total;
  RowTerms terms = {0.0f, 0.0f, 0.0f, 0.0f, total == 0.0f || scale * (best - own) < 0.0f};
  const float by_row = softmaxes.q2t ? margin_of(row, own, scale) : -kInfinity<float>;
  const float by_column = softmaxes.t2q ? margin_of(column, own, scale) : -kInfinity<float>;
  float row_share, column_share;
  if (softmaxes.joint) {
    const float margin = log_add(by_row, by_column);
    terms.loss = softplus(margin);
    const float share = sigmoid(margin) * weight;
    // each pool's part of the one softmax; no part where neither has a negative
    const bool any = margin != -kInfinity<float>;
    row_share = any ? share * expf(by_row - margin) : 0.0f;
    column_share = any ? share * expf(by_column - margin) : 0.0f;
  } else {
    const float half = softmaxes.q2t && softmaxes.t2q ? 0.5f : 1.0f;
    // softplus and sigmoid of minus infinity are 0: a softmax that does not count adds nothing
    terms.loss = (softplus(by_row) + softplus(by_column)) * half;
    row_share = sigmoid(by_row) * (weight * half);
    column_share = sigmoid(by_column) * (weight * half);
  }
  if (weight == 0.0f) return terms;  // nothing else, whatever the vectors hold
  terms.pull = -(row_share + column_share);
  if (softmaxes.q2t && row.total != 0.0f) terms.of_row = row_share / row.total;
  if (softmaxes.t2q && column.total != 0.0f) terms.of_column = column_share / column.total;
  return terms;
}

}  // namespace umer1::dual
