"""InfoNCE row by row from its definition: slow, float64, no code of the library."""

import torch


def row_losses(query, target, scale, labels, query_ids, target_ids, directions, partition):
    """Losses [N] of rows (query_i, target_{labels_i}); autograd works through it."""
    losses = []
    for i, label in enumerate(labels.tolist()):
        positive = scale * (query[i] @ target[label])
        pools = [
            negatives(direction, i, label, query, target, scale, query_ids, target_ids)
            for direction in directions
        ]
        if partition == "joint":
            pools = [[z for pool in pools for z in pool]]
        softmaxes = [torch.stack([positive, *pool]) for pool in pools]
        losses.append(torch.stack([torch.logsumexp(z, 0) - positive for z in softmaxes]).mean())
    return torch.stack(losses)


def negatives(direction, i, label, query, target, scale, query_ids, target_ids):
    row, row_id = {
        "q": (query[i], None if query_ids is None else query_ids[i]),
        "t": (target[label], None if target_ids is None else target_ids[label]),
    }[direction[0]]
    candidates, ids, own = {"q": (query, query_ids, i), "t": (target, target_ids, label)}[
        direction[2]
    ]
    return [
        scale * (row @ candidates[j])
        for j in range(len(candidates))
        if j != own and (ids is None or ids[j] != row_id)
    ]
