// How the similarities of all rollouts are cut into tiles and tasks, and where results lie.
//
// Legend: C candidates on each side, those of all processes; `count` of them, from `first` on, are
// this process's own. A tile is 16 queries x 8 targets. A task is a rectangle of tiles that one
// block works through; it leaves one part of the sums of each of its own rows and columns.
// Similarities are needed for own queries x all targets and for the other queries x own targets:
// two regions, the second one empty in a single process.

#pragma once

#include <cstdint>
#include <type_traits>

#include "common/group_reward.h"
#include "common/host_device.h"

namespace umer1::reward {

constexpr int kWorkers = 256;  // threads of a block
constexpr int kTileRows = 16, kTileColumns = 8, kTilePairs = kTileRows * kTileColumns;
constexpr int kTaskSide = 128;     // rows and columns of the largest task
constexpr int kFewTasks = 1024;    // tasks grow beyond one tile when there would be more
constexpr int kKeptTiles = 64;     // tiles of similarities that a block keeps on chip
constexpr int kMostRollouts = 32;  // per pair

// What is asked for.
struct Problem {
  int candidates;  // C
  int size;        // rollouts per pair
  int dim;
  int first, count;
  Kind kind;
  const bool* query_valid;   // [C], or null: all
  const bool* target_valid;  // [C], or null: all
  const float* threshold;    // or null: fixed, or half way between the batch's means

  UMER1_HOST_DEVICE bool finds_threshold() const {
    return kind == Kind::kAdaptiveThreshold && threshold == nullptr;
  }
};

// The numbers of a task: which of its region's, counted in tasks.
struct Task {
  bool own_rows;
  int down, across;
};

// Its first row and column in the region.
struct Tile {
  bool own_rows;
  int row, column;
};

struct Schedule {
  int rows, columns;              // of a task, in tiles
  int own_down, own_across;       // tasks: own queries x all targets
  int other_down, other_across;   // other queries x own targets

  UMER1_HOST_DEVICE int tasks() const { return own_down * own_across + other_down * other_across; }
  UMER1_HOST_DEVICE int tiles() const { return rows * columns; }
  // Parts that the sums of an own query, of an own target come in.
  UMER1_HOST_DEVICE int query_parts() const { return own_across; }
  UMER1_HOST_DEVICE int target_parts() const { return own_down + other_down; }
  // Whether every block can keep all its similarities.
  UMER1_HOST_DEVICE bool keeps(int blocks) const {
    return divide_up(tasks(), blocks) * tiles() <= kKeptTiles;
  }

  UMER1_HOST_DEVICE Task task(int number) const {
    const int own = own_down * own_across;
    if (number < own) return {true, number / own_across, number % own_across};
    return {false, (number - own) / other_across, (number - own) % other_across};
  }
  UMER1_HOST_DEVICE Tile tile(const Task& task, int number) const {
    return {task.own_rows, (task.down * rows + number / columns) * kTileRows,
            (task.across * columns + number % columns) * kTileColumns};
  }
};

// Does not depend on the GPU: the order of every sum is the same on all of them.
inline Schedule schedule_of(const Problem& problem) {
  const int others = problem.candidates - problem.count;
  Schedule plan = {1, 1, 0, 0, 0, 0};
  while (true) {
    const int rows = plan.rows * kTileRows, columns = plan.columns * kTileColumns;
    plan.own_down = divide_up(problem.count, rows);
    plan.own_across = divide_up(problem.candidates, columns);
    plan.other_down = divide_up(others, rows);
    plan.other_across = divide_up(problem.count, columns);
    const int64_t tasks = static_cast<int64_t>(plan.own_down) * plan.own_across +
                          static_cast<int64_t>(plan.other_down) * plan.other_across;
    if (tasks <= kFewTasks || (rows == kTaskSide && columns == kTaskSide)) return plan;
    (columns <= rows && columns < kTaskSide ? plan.columns : plan.rows) *= 2;
  }
}

// What a task found about the negatives of one row or column. 16 bytes: one store.
struct alignas(16) Part {
  float sum;
  int count, reached;
};

// Sums over the similarities of one task.
struct Totals {
  double positive_sum, negative_sum;
  int64_t positives, negatives;
};

struct Result {
  float *reward, *advantage, *rank, *gap;  // [2, count], queries first
};

// Between the phases.
struct Work {
  float* positives;    // [count, size]: own query x the targets of its pair
  int* ahead;          // [2, count, size]: negatives at least as near as each of the S+
  Part* query_parts;   // [count, query_parts()]
  Part* target_parts;  // [count, target_parts()]
  Totals* totals;      // [tasks()], only if the threshold is found
};

// Bytes of a Work; if `base` is given, its pointers too. `base` is aligned to 16 bytes.
inline int64_t lay_out(const Problem& problem, const Schedule& schedule, char* base, Work& work) {
  int64_t bytes = 0;
  const auto take = [&](auto*& pointer, int64_t elements) {
    using Element = std::remove_reference_t<decltype(*pointer)>;
    if (base != nullptr) pointer = reinterpret_cast<Element*>(base + bytes);
    bytes += divide_up<int64_t>(elements * static_cast<int64_t>(sizeof(Element)), 16) * 16;
  };
  const int64_t own = problem.count;
  take(work.query_parts, own * schedule.query_parts());
  take(work.target_parts, own * schedule.target_parts());
  take(work.positives, own * problem.size);
  take(work.ahead, 2 * own * problem.size);
  take(work.totals, problem.finds_threshold() ? schedule.tasks() : 0);
  return bytes;
}

}  // namespace umer1::reward
