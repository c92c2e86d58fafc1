// The three phases of the group_reward kernel, for one block; all blocks end a phase before any
// begins the next.
//
//   1  similarities that phase 2 needs first: those of each pair with itself (the positives), and,
//      where a block can keep them on chip or the threshold depends on them, all the others
//   2  every similarity against the positives of its row and of its column: how many of the
//      negatives are ahead, and sums over them
//   3  rank, gap, share, reward and advantage, a group of rollouts at a time

#pragma once

#include "common/group_reward_tiles.h"

namespace umer1::reward {

UMER1_HOST_DEVICE inline void add(Totals& total, const Totals& other) {
  total.positive_sum += other.positive_sum;
  total.negative_sum += other.negative_sum;
  total.positives += other.positives;
  total.negatives += other.negatives;
}

template <class Block, class Products>
UMER1_HOST_DEVICE void first_phase(const Block& block, const Products& products,
                                   const Problem& problem, const Schedule& schedule,
                                   const Work& work, BlockState& state) {
  const int64_t counters = 2 * static_cast<int64_t>(problem.count) * problem.size;
  block.each([&](int worker) {
    for (int64_t i = block.id() * kWorkers + worker; i < counters; i += block.all() * kWorkers) {
      work.ahead[i] = 0;
    }
  });
  const bool keeps = schedule.keeps(block.all()), totals = problem.finds_threshold();
  if (!keeps && !totals) {
    for (int row = block.id() * kTileRows; row < problem.count; row += block.all() * kTileRows) {
      const int last = least(row + kTileRows, problem.count) - 1;
      const int begin = (problem.first + row) / problem.size * problem.size;
      const int end = ((problem.first + last) / problem.size + 1) * problem.size;
      for (int column = begin; column < end; column += kTileColumns) {
        similarities(block, products, problem, {true, row, column}, state, state.tiles[0]);
        block.each([&](int worker) { publish(problem, work, state, state.tiles[0], worker); });
      }
    }
    return;
  }
  int slot = 0;
  for (int number = block.id(); number < schedule.tasks(); number += block.all()) {
    const Task task = schedule.task(number);
    block.each([&](int worker) {
      if (worker < kLanes) state.totals[worker] = {};
    });
    for (int t = 0; t < schedule.tiles(); ++t) {
      float* similarity = state.tiles[keeps ? slot++ : 0];
      similarities(block, products, problem, schedule.tile(task, t), state, similarity);
      block.each([&](int worker) {
        publish(problem, work, state, similarity, worker);
        if (totals) add_totals(state, similarity, worker);
      });
    }
    if (!totals) continue;
    block.each([&](int worker) {
      if (worker > 0) return;
      Totals total = state.totals[0];
      for (int row = 1; row < kTileRows; ++row) add(total, state.totals[row]);
      work.totals[number] = total;
    });
  }
}

// Every block finds the same threshold, by itself.
template <class Block>
UMER1_HOST_DEVICE void set_threshold(const Block& block, const Problem& problem,
                                     const Schedule& schedule, const Work& work,
                                     BlockState& state) {
  const bool finds = problem.finds_threshold();
  block.each([&](int worker) {
    if (!finds && worker == 0) {
      state.threshold = problem.threshold != nullptr ? *problem.threshold
                                                     : static_cast<float>(kFixedThreshold);
    }
    if (!finds || worker >= kLanes) return;
    Totals total = {};
    for (int task = worker; task < schedule.tasks(); task += kLanes) add(total, work.totals[task]);
    state.totals[worker] = total;
  });
  if (!finds) return;
  block.each([&](int worker) {
    if (worker > 0) return;
    Totals total = state.totals[0];
    for (int lane = 1; lane < kLanes; ++lane) add(total, state.totals[lane]);
    state.threshold = middle_of({total.positive_sum, total.positives, 0},
                                {total.negative_sum, total.negatives, 0});
  });
}

template <class Block, class Products>
UMER1_HOST_DEVICE void second_phase(const Block& block, const Products& products,
                                    const Problem& problem, const Schedule& schedule,
                                    const Work& work, BlockState& state) {
  const bool keeps = schedule.keeps(block.all());
  set_threshold(block, problem, schedule, work, state);
  int slot = 0;
  for (int number = block.id(); number < schedule.tasks(); number += block.all()) {
    const Task task = schedule.task(number);
    block.each([&](int worker) {
      if (worker >= kTaskSide) return;
      state.row_part[worker] = {0.0f, 0, 0};
      state.column_part[worker] = {0.0f, 0, 0};
    });
    for (int t = 0; t < schedule.tiles(); ++t) {
      float* similarity = state.tiles[keeps ? slot++ : 0];
      const Tile tile = schedule.tile(task, t);
      if (keeps) {
        block.each([&](int worker) { describe(problem, tile, state, worker); });
      } else {
        similarities(block, products, problem, tile, state, similarity);
      }
      const int row = t / schedule.columns * kTileRows;
      const int column = t % schedule.columns * kTileColumns;
      block.each([&](int worker) {
        count_ahead(problem, work, state, similarity, worker);
        add_parts(state, similarity, row, column, worker);
      });
    }
    block.each([&](int worker) { write_parts(problem, schedule, work, task, state, worker); });
  }
}

// All that phase 3 needs of one side of one pair.
UMER1_HOST_DEVICE inline void load_group(const Problem& problem, const Schedule& schedule,
                                         const Work& work, bool is_query, int pair, Group& group,
                                         int worker) {
  const int size = problem.size, first = pair * size;
  const int64_t block = static_cast<int64_t>(first) * size;
  const int64_t queries = static_cast<int64_t>(problem.count) * size;
  const int* ahead = work.ahead + block + (is_query ? 0 : queries);
  for (int item = worker; item < size * size; item += kWorkers) {
    const int row = item / size, column = item % size;
    const float value = work.positives[block + item];
    (is_query ? group.similarity[row][column] : group.similarity[column][row]) = value;
    group.ahead[row][column] = ahead[item];
  }
  if (worker >= size) return;
  const int own = first + worker, candidate = problem.first + own;
  const int parts = is_query ? schedule.query_parts() : schedule.target_parts();
  const Part* part = (is_query ? work.query_parts : work.target_parts) +
                     static_cast<int64_t>(own) * parts;
  double sum = 0.0;
  int negatives = 0, reached = 0;
  for (int p = 0; p < parts; ++p) {
    const Part one = part[p];
    sum += static_cast<double>(one.sum);
    negatives += one.count;
    reached += one.reached;
  }
  group.negative_sum[worker] = sum;
  group.negatives[worker] = negatives;
  group.reached[worker] = reached;
  group.in_top[worker] = 0;
  group.counted[worker] = counts(is_query ? problem.query_valid : problem.target_valid, candidate);
  group.partner_counted[worker] =
      counts(is_query ? problem.target_valid : problem.query_valid, candidate);
}

// Counts the positives of every rollout that are among its K nearest. A tie between a positive and
// a negative goes to the negative, one between positives to the lower rollout.
UMER1_HOST_DEVICE inline void count_in_top(int size, Group& group, int worker) {
  for (int item = worker; item < size * size; item += kWorkers) {
    const int own = item / size, partner = item % size;
    if (!group.partner_counted[partner]) continue;
    const float* similarity = group.similarity[own];
    const float value = similarity[partner];
    int nearest = 0, ahead = group.ahead[own][partner];
    for (int p = 0; p < size; ++p) {
      if (!group.partner_counted[p]) continue;
      ++nearest;
      ahead += similarity[p] > value || (similarity[p] == value && p < partner);
    }
    if (ahead < nearest) add_to_counter(group.in_top + own, 1);
  }
}

UMER1_HOST_DEVICE inline void score_rollout(const Problem& problem, float threshold, Group& group,
                                            const Result& result, int64_t out, int worker) {
  if (worker >= problem.size) return;
  Tally positive;
  for (int p = 0; p < problem.size; ++p) {
    if (!group.partner_counted[p]) continue;
    const float value = group.similarity[worker][p];
    positive.sum += static_cast<double>(value);
    positive.count += 1;
    positive.reached += value >= threshold;
  }
  const Tally negative = {group.negative_sum[worker], group.negatives[worker],
                          group.reached[worker]};
  Score score;
  if (group.counted[worker]) score = score_of(positive, negative, group.in_top[worker]);
  group.reward[worker] = static_cast<float>(score.reward(problem.kind));
  result.reward[out + worker] = group.reward[worker];
  result.rank[out + worker] = static_cast<float>(score.rank);
  result.gap[out + worker] = static_cast<float>(score.gap);
}

template <class Block>
UMER1_HOST_DEVICE void third_phase(const Block& block, const Problem& problem,
                                   const Schedule& schedule, const Work& work, const Result& result,
                                   BlockState& state) {
  const int pairs = problem.count / problem.size;
  for (int number = block.id(); number < 2 * pairs; number += block.all()) {
    const bool is_query = number < pairs;
    const int pair = is_query ? number : number - pairs;
    // queries' results lie before the targets', pair by pair
    const int64_t out = static_cast<int64_t>(number) * problem.size;
    Group& group = state.group;
    block.each([&](int worker) {
      load_group(problem, schedule, work, is_query, pair, group, worker);
    });
    block.each([&](int worker) { count_in_top(problem.size, group, worker); });
    block.each([&](int worker) {
      score_rollout(problem, state.threshold, group, result, out, worker);
    });
    block.each([&](int worker) {
      if (worker >= problem.size) return;
      const Spread spread = spread_of(group.reward, problem.size);
      result.advantage[out + worker] = advantage_of(group.reward[worker], spread);
    });
  }
}

}  // namespace umer1::reward
