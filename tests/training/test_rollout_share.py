"""Which rollouts a process makes."""

import pytest
import torch

from umer1.training.rollout_share import RolloutShare
from umer1.training.settings import RLConfig, SFTConfig


@pytest.mark.parametrize("processes, parts", [(1, 1), (8, 1), (16, 1), (32, 2), (64, 4), (128, 8)])
def test_the_released_batch_divides_among_up_to_128_processes(processes, parts):
    assert RLConfig().processes_per_pair(processes) == parts
    RLConfig().check_processes(processes)


@pytest.mark.parametrize("processes", [3, 24, 48, 256])
def test_what_does_not_divide_is_refused(processes):
    with pytest.raises(
        ValueError, match=f"batch_size: got 16 pairs of 8 .* for {processes} processes"
    ):
        RLConfig().check_processes(processes)
    with pytest.raises(ValueError, match=f"batch_size: got 50, wants a multiple .* {processes}"):
        SFTConfig(batch_size=50, group_size=10).check_processes(processes)


def test_every_generation_of_every_pair_is_somebodys():
    """Six processes, two pairs of six generations: three processes to a pair."""
    values = torch.arange(2 * 2 * 6).view(2, 2, 6)
    shares = [RolloutShare(process // 3, 2, process % 3, 3, 2, None) for process in range(6)]
    assert [share.process for share in shares] == list(range(6))
    mine = [share.own(values) for share in shares]
    assert torch.cat([torch.cat(mine[:3], 2), torch.cat(mine[3:], 2)], 1).equal(values)
    assert [share.own(values[:, :, 0]).tolist() for share in shares[2:4]] == [
        [[0], [12]],
        [[6], [18]],
    ]
