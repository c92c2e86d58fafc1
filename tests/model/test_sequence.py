"""Packing: positions, indices and the errors of sequences that do not fit together."""

from __future__ import annotations

import dataclasses
import gc

import pytest
import torch

from umer1.model import pack, rope_index


def test_pack_lays_sequences_back_to_back(make_sequence):
    first, second = make_sequence(3, (1, 4, 4), 2), make_sequence(4, seed=1)
    packed = pack([first, second])
    assert packed.lengths == [9, 4]
    assert packed.cu_seqlens.tolist() == [0, 9, 13] and packed.cu_seqlens.dtype == torch.int32
    assert torch.equal(packed.input_ids, torch.cat([first.input_ids, second.input_ids]))
    assert packed.media_index.tolist() == [3, 4, 5, 6]
    assert packed.grid_thw.tolist() == [[1, 4, 4]]
    assert packed.next_position.tolist() == [7, 4]
    assert packed.position_ids.tolist() == [
        [0, 1, 2, 3, 3, 3, 3, 5, 6, 0, 1, 2, 3],
        [0, 1, 2, 3, 3, 4, 4, 5, 6, 0, 1, 2, 3],
        [0, 1, 2, 3, 4, 3, 4, 5, 6, 0, 1, 2, 3],
    ]


def test_adjacent_media_need_no_text_between():
    positions, following = rope_index(
        torch.ones(6, dtype=torch.bool), torch.tensor([[1, 2, 4], [1, 4, 4]])
    )
    assert positions.tolist() == [
        [0, 0, 2, 2, 2, 2],
        [0, 0, 2, 2, 3, 3],
        [0, 1, 2, 3, 2, 3],
    ]
    assert following == 4


def test_positions_do_not_alias_a_cache():
    mask, grid = torch.tensor([True, True]), torch.tensor([[1, 2, 4]])
    rope_index(mask, grid)[0].add_(100)
    assert rope_index(mask, grid)[0][0].tolist() == [0, 0]


@pytest.mark.parametrize("time, height, width", [(1, 2, 6), (3, 4, 2), (5, 6, 8)])
def test_cells_are_numbered_by_time_row_and_column(time, height, width):
    rows, columns = height // 2, width // 2
    mask = torch.ones(time * rows * columns + 4, dtype=torch.bool)
    mask[:3] = mask[-1] = False
    for _ in range(2):  # what is kept of the first call changes nothing
        positions, following = rope_index(mask, torch.tensor([[time, height, width]]))
        wanted = [(t, r, c) for t in range(time) for r in range(rows) for c in range(columns)]
        assert torch.equal(positions[:, 3:-1], torch.tensor(wanted).T + 3)
        assert positions.dtype == torch.int64 and positions.is_contiguous()
        assert following == 3 + max(rows, columns) + 1


def test_videos_of_many_sizes_leave_little_behind():
    def kept():
        return sum(each.nbytes for each in gc.get_objects() if type(each) is torch.Tensor)

    before = kept()
    for number in range(100):
        grid = [500 + number, 4, 4 + 2 * number]
        cells = grid[0] * grid[1] * grid[2] // 4
        rope_index(torch.ones(cells, dtype=torch.bool), torch.tensor([grid]))
    assert kept() - before < 1 << 20


def test_extend_appends_text(make_sequence):
    sequence = make_sequence(2, (1, 2, 2), 1)
    longer = sequence.extend([7, 90])
    assert longer.input_ids.tolist()[-2:] == [7, 90]
    assert longer.media_mask.tolist() == [False, False, True, False, False, False]
    assert len(sequence) == 4


def test_head_cuts_text_but_no_medium(make_sequence):
    sequence = make_sequence(3, (1, 4, 4), 5)
    cut = sequence.head(8)
    assert len(cut) == 8 and torch.equal(cut.media_mask, sequence.media_mask[:8])
    assert torch.equal(pack([cut]).position_ids, pack([sequence]).position_ids[:, :8])
    assert sequence.head(6) is sequence and len(sequence.head(99)) == len(sequence)


@torch.no_grad()
def test_a_sampled_placeholder_is_text(make_model, make_sequence):
    """The model may sample <|image_pad|>; transformers raises on the mismatch, here it is a word."""
    model = make_model()
    prompt = make_sequence(2, (1, 4, 4), 3)
    placeholder = model.config.image_token_id
    packed = pack([prompt.extend([placeholder, 5])])
    assert packed.media_index.tolist() == [2, 3, 4, 5]
    hidden = model.embed(packed)
    torch.testing.assert_close(hidden[-2], model.decoder.embed.weight[placeholder])
    assert packed.position_ids[:, -2:].tolist() == [[7, 8]] * 3
    assert model(packed).isfinite().all()


def test_errors_name_the_sequence(make_sequence):
    good = make_sequence(3)
    image = make_sequence(3, (1, 4, 4), 2)
    cases = [
        ([], "sequences is empty"),
        ([good, dataclasses.replace(good, input_ids=good.input_ids[:0])], "sequence 1: input_ids"),
        ([dataclasses.replace(good, media_mask=good.media_mask[:1])], "sequence 0: media_mask"),
        ([good, dataclasses.replace(image, pixel_values=None)], "sequence 1: pixel_values has 0"),
        (
            [dataclasses.replace(image, pixel_values=image.pixel_values[:-1])],
            "pixel_values has 15 patches, want 16",
        ),
        (
            [dataclasses.replace(image, media_mask=torch.zeros_like(image.media_mask))],
            r"sequence 0: grid_thw\[0\] needs 4 placeholders in a row in media_mask, got 0",
        ),
        (
            [dataclasses.replace(image, media_mask=torch.ones_like(image.media_mask))],
            "media_mask has 9 placeholders, want 4",
        ),
        ([dataclasses.replace(good, media_mask=~good.media_mask)], "grid_thw is empty"),
    ]
    for sequences, message in cases:
        with pytest.raises(ValueError, match=message):
            pack(sequences)


def test_grids_must_be_whole_cells():
    with pytest.raises(ValueError, match=r"grid_thw\[0\] is \[1, 3, 4\]"):
        rope_index(torch.ones(3, dtype=torch.bool), torch.tensor([[1, 3, 4]]))


def test_a_broken_run_of_placeholders_is_an_error():
    mask = torch.tensor([True, True, False, True, True])
    with pytest.raises(ValueError, match="needs 4 placeholders in a row in media_mask, got 2"):
        rope_index(mask, torch.tensor([[1, 4, 4]]))
