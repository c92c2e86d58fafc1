"""Encoding one record: what is wrong with it is said with its name, as the kind of error that it is."""

import dataclasses

import pytest

from umer1.data import open_rl, open_sft
from umer1.media import MediaError
from umer1.training.encoded import encode_side
from umer1.training.rl_prompts import PromptEncoder
from umer1.training.start import start


@pytest.fixture
def processor(sft_config, records):
    return start(sft_config, open_sft(records / "sft.json", records))[1]


@pytest.mark.parametrize("change, message", [
    (dict(text="\ud800<image>\n<disc_emb>"), "record 7, qry: human turn: not valid Unicode"),
    (dict(response="\udfff<gen_emb>"), "record 7, qry: response: not valid Unicode"),
    (dict(text="no placeholder <disc_emb>"), "record 7, qry: human turn: its placeholders"),
])  # fmt: skip
def test_what_the_processor_refuses_is_named(processor, records, change, message):
    side = dataclasses.replace(open_sft(records / "sft.json", records)[0].query, **change)
    with pytest.raises(ValueError, match=message) as caught:
        encode_side(side, processor, 999, "record 7, qry")
    assert not isinstance(caught.value, MediaError)


def test_a_missing_medium_stays_one_and_is_named_once(processor, records):
    side = open_sft(records / "sft.json", records)[0].query
    with pytest.raises(MediaError, match="^record 7, qry: no such file") as caught:
        encode_side(dataclasses.replace(side, images=["gone.png"]), processor, 999, "record 7, qry")
    assert str(caught.value).count("record 7") == 1


def test_a_prompt_of_rl_is_named_too(processor, records):
    pair = open_rl(records / "rl.json", records)[0]
    pair.target.text = "\ud800"
    with pytest.raises(ValueError, match=r"record 0 \(pictures\), pos: not valid Unicode"):
        PromptEncoder(processor, 0)(pair, "record 0")
