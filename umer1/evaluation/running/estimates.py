"""Statistics of per-query columns over tasks, each with its 95 % interval (bootstrap over queries).

    estimates = Estimates({"task": {"disc": float64 [N], "gen": float64 [N]}, ...})
    estimates.of(lambda mean: mean["gen"] - mean["disc"])   # {"value", "low", "high"}

Tasks are fixed, as a benchmark's are; a mean over tasks weighs each the same whatever its size.
Columns of one task are drawn together, so that differences and shares of them are paired.
"""

from collections.abc import Callable, Iterable, Mapping

import numpy as np

from umer1.evaluation.bootstrap import DRAWS, interval, resampled_means


class Estimates:
    """tables: task -> column -> value of each of its queries, float64 [N], finite."""

    def __init__(self, tables: Mapping[str, Mapping[str, np.ndarray]], *, draws: int = DRAWS):
        self.points, self.draws = {}, {}
        for name, table in tables.items():
            values = np.stack(list(table.values()))  # [K, N]
            if not np.isfinite(values).all():
                bad = [column for column, row in table.items() if not np.isfinite(row).all()]
                raise ValueError(f"tables: {name}, {', '.join(bad)}: values are not finite")
            drawn = resampled_means(values, name, draws=draws)
            self.points[name] = dict(zip(table, values.mean(axis=1), strict=True))
            self.draws[name] = dict(zip(table, drawn, strict=True))

    def of(
        self, statistic: Callable[[Mapping], float], tasks: Iterable[str] | None = None
    ) -> dict[str, float] | None:
        """`statistic` of the columns' means over `tasks` (default: all), with its interval.

        It gets column -> mean, a number, and once more with an array of all draws. None when the
        value is not finite: a share of nothing.
        """
        names = list(self.points if tasks is None else tasks)
        with np.errstate(divide="ignore", invalid="ignore"):
            value = float(statistic(_Means(self.points, names)))
            drawn = np.asarray(statistic(_Means(self.draws, names)))
        drawn = drawn[np.isfinite(drawn)]
        if not np.isfinite(value) or not drawn.size:
            return None
        low, high = interval(drawn)
        return {"value": value, "low": low, "high": high}

    def mean(self, column: str, tasks: Iterable[str] | None = None) -> dict[str, float]:
        """The column's mean over tasks."""
        return self.of(lambda mean: mean[column], tasks)


class _Means:
    """Column -> mean over tasks, made when asked for."""

    def __init__(self, columns, names):
        self.columns, self.names = columns, names

    def __getitem__(self, column):
        # numpy's, so that 0 / 0 is a NaN and no exception
        return np.mean([self.columns[name][column] for name in self.names], axis=0)
