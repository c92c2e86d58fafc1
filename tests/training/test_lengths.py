"""Estimated tokens are near the real ones at whatever media limits, with whatever tokenizer."""

import numpy as np
import pytest

from umer1.data.records import RecordError
from umer1.training.encoded import encode_pair
from umer1.training.lengths import estimated_lengths
from umer1.training.start import open_pairs, start


def test_estimates_are_near_the_tokens_of_a_tiny_model(sft_config):
    pairs = open_pairs(sft_config, "sft")
    processor = start(sft_config, pairs)[1]
    encoded = [encode_pair(pair, processor, 999, "record") for pair in pairs]
    real = np.array([len(each.query.sequence) + len(each.target.sequence) for each in encoded])
    estimated = estimated_lengths(pairs, processor)
    assert estimated.dtype == np.int32
    assert estimated.sum() == pytest.approx(real.sum(), rel=0.25)
    assert pairs.lengths.sum() > 3 * real.sum()  # at the released limits


def test_a_record_that_does_not_fit_is_no_part_of_the_sample(sft_config):
    pairs = open_pairs(sft_config, "sft")
    processor = start(sft_config, pairs)[1]

    class WithABadOne:
        lengths_at = pairs.lengths_at

        def __len__(self):
            return len(pairs)

        def __getitem__(self, number):
            if number == 3:
                raise RecordError("record 3: does not fit")
            return pairs[number]

    assert len(estimated_lengths(WithABadOne(), processor)) == len(pairs)
