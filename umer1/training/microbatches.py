"""Which sequences share a forward pass."""

from __future__ import annotations


def plan_microbatches(lengths: list[int], capacity: int) -> list[list[int]]:
    """Parts of at most `capacity` tokens, a longer sequence alone: best-fit decreasing, numbers ascend."""
    parts: list[list[int]] = []
    room: list[int] = []
    for number in sorted(range(len(lengths)), key=lambda number: -lengths[number]):
        fitting = [part for part in range(len(parts)) if room[part] >= lengths[number]]
        best = min(fitting, key=lambda part: room[part], default=None)
        if best is None:
            parts.append([])
            room.append(capacity)
            best = len(parts) - 1
        parts[best].append(number)
        room[best] -= lengths[number]
    return [sorted(part) for part in parts]
