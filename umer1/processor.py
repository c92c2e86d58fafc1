"""`Processor`: items in, token ids and patches out.

    processor = Processor.load("zhibinlan/UME-R1-2B")
    sequence = processor.encode({"text": "What is in the image?", "image": "cat.jpg"}, mode="gen")

Ids and pixel values equal those of transformers' Qwen2VLProcessor and chat template for the same
messages. Text from users and data never becomes a control token or a medium; `<gen_emb>` and
`<disc_emb>`, which are ordinary added tokens, do become theirs, as in the release.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from umer1.media import (
    EVALUATION_LIMITS,
    SFT_LIMITS,
    MediaLimits,
    PixelFormat,
    blank_image,
    medium_patches,
)
from umer1.model.sequence import Sequence
from umer1.processor_files import read_files, write_files
from umer1.prompts import (
    DISC_TOKEN,
    GEN_TOKEN,
    Item,
    Medium,
    Template,
    check_text,
    parse_item,
    prompt_head,
    render_prompt,
)
from umer1.text_encoder import TextEncoder

__all__ = ["EVALUATION_LIMITS", "SFT_LIMITS", "MediaLimits", "Processor"]

QWEN2_VL = PixelFormat()
IGNORED = -100  # label of a position that is not supervised
_NO_MEDIA = torch.zeros(0, 3, dtype=torch.int64)
_RECORD_PLACEHOLDER = re.compile("(<image>|<video>)")


class Processor:
    """Tokenizer, media limits and pixel format of one model.

    Attributes:
        gen_id, disc_id, eos_id, pad_id, image_pad_id, video_pad_id: from the tokenizer; eos is
            `<|im_end|>`.
        limits: may be replaced at any time.
    """

    def __init__(self, tokenizer: Any, limits: MediaLimits, pixel_format: PixelFormat):
        self.tokenizer, self.limits, self.pixel_format = tokenizer, limits, pixel_format
        self.text = TextEncoder(tokenizer)
        self.gen_id, self.disc_id = self.text.id(GEN_TOKEN), self.text.id(DISC_TOKEN)
        self.eos_id, self.image_pad_id, self.video_pad_id = map(
            self.text.id, ("<|im_end|>", "<|image_pad|>", "<|video_pad|>")
        )
        self._vision_start = self.text.id("<|vision_start|>")
        self._vision_end = self.text.id("<|vision_end|>")
        pad = tokenizer.pad_token_id
        self.pad_id = self.text.id("<|endoftext|>") if pad is None else pad

    @classmethod
    def from_parts(
        cls,
        tokenizer: Any,
        limits: MediaLimits = EVALUATION_LIMITS,
        pixel_format: PixelFormat = QWEN2_VL,
    ) -> Processor:
        """From a transformers fast tokenizer with Qwen2-VL's, `<gen_emb>` and `<disc_emb>`."""
        return cls(tokenizer, limits, pixel_format)

    @classmethod
    def load(
        cls,
        path_or_hub_id: str | Path,
        *,
        tokenizer: Any = None,
        default_limits: MediaLimits = EVALUATION_LIMITS,
    ) -> Processor:
        """From a Hugging Face directory or hub id.

        `default_limits` hold where there is no `umer1.json`. `tokenizer` replaces the
        checkpoint's, for example by one that has just been given the two embedding tokens.
        """
        files = read_files(path_or_hub_id, tokenizer)
        limits = default_limits if files.limits is None else MediaLimits.from_dict(files.limits)
        return cls(files.tokenizer, limits, files.pixel_format)

    def save(self, directory: str | Path) -> None:
        """Write what `load` and transformers' AutoProcessor read."""
        write_files(Path(directory), self.tokenizer, self.limits, self.pixel_format)

    def encode(
        self, item: Any, *, mode: str = "gen", dialect: str = "evaluation", readout: str = "at"
    ) -> Sequence:
        """The prompt of an `Item` (or of whatever `parse_item` takes).

        mode "gen" ends with the opened assistant's turn; "disc" ends at `<disc_emb>`, or with
        readout "after" at the token that follows it in gen mode; "plain" is the bare user turn and
        the opened assistant's turn.
        """
        if readout not in ("at", "after"):
            raise ValueError(f"readout: got {readout!r}, wants 'at' or 'after'")
        item = self._with_blank(parse_item(item))
        pieces = render_prompt(item, mode="gen" if mode == "disc" else mode, dialect=dialect)
        sequence = self._sequence(pieces)
        if mode != "disc":
            return sequence
        end = self.disc_position(sequence) + (1 if readout == "at" else 2)
        return replace(
            sequence,
            input_ids=sequence.input_ids[:end],
            media_mask=sequence.media_mask[:end],
        )

    def encode_turns(
        self, human: str, response: str, media: Iterable[Medium] = ()
    ) -> tuple[Sequence, Tensor]:
        """One side of an SFT record: the sequence of T tokens and its labels int64 [T].

        `human` is the human turn as stored, with one `<image>` or `<video>` for each medium, in
        order. Labels are -100 on the system turn, the human turn and the header of the assistant's
        turn; the response, its `<|im_end|>` and the newline after it are supervised. A record
        without media gets the limits' blank image.
        """
        check_text(human, "human turn")
        check_text(response, "response")
        media = tuple(media)
        pieces = [prompt_head(), *_record_pieces(human, media)]
        if not media and (blank := self._blank()) is not None:
            pieces[1:1] = [blank, Template("\n")]
        header = Template("<|im_end|>\n<|im_start|>assistant\n")
        sequence = self._sequence([*pieces, header, response, Template("<|im_end|>\n")])
        labels = sequence.input_ids.clone()
        labels[: self._response_start(sequence)] = IGNORED
        return sequence, labels

    def disc_position(self, sequence: Sequence) -> int:
        """Position of the prompt's `<disc_emb>`: the last, for the item's text may hold more."""
        places = (sequence.input_ids == self.disc_id).nonzero()
        if len(places) == 0:
            raise ValueError(f"sequence: has no {DISC_TOKEN}")
        return int(places[-1])

    def decode(self, ids: Iterable[int] | Tensor) -> str:
        """Text of generated ids, with all special tokens visible."""
        ids = ids.tolist() if isinstance(ids, Tensor) else list(ids)
        return self.text.decode(ids)

    def _blank(self) -> Medium | None:
        image = blank_image(self.limits.blank_image)
        # its size is the rule's, whatever the limits
        return None if image is None else Medium("image", image, "blank image", 1, 1 << 30)

    def _with_blank(self, item: Item) -> Item:
        blank = None if item.media else self._blank()
        return item if blank is None else Item(item.text, (blank,))

    def _response_start(self, sequence: Sequence) -> int:
        # the assistant's header is <|im_start|> and the tokens of "assistant\n", which may merge
        # with the response
        opening = (sequence.input_ids == self.text.id("<|im_start|>")).nonzero()[-1]
        return int(opening) + 1 + len(self.text.encode("assistant\n"))

    def _sequence(self, pieces: list[str | Medium]) -> Sequence:
        ids: list[int] = []
        media: list[tuple[int, Tensor, Tensor]] = []  # first placeholder, patches, grid
        run = ""  # text up to the next control token or medium: one stretch for the tokenizer
        for part in self._parts(pieces):
            if isinstance(part, str):
                run += part
                continue
            ids += self.text.encode(run)
            run = ""
            if isinstance(part, int):
                ids.append(part)
                continue
            patches, grid = medium_patches(part, self.limits, self.pixel_format)
            pad = self.image_pad_id if part.kind == "image" else self.video_pad_id
            media.append((len(ids) + 1, patches, grid))
            ids += [self._vision_start, *[pad] * self._tokens(patches), self._vision_end]
        ids += self.text.encode(run)
        mask = torch.zeros(len(ids), dtype=torch.bool)
        for start, patches, _ in media:
            mask[start : start + self._tokens(patches)] = True
        return Sequence(
            input_ids=torch.tensor(ids, dtype=torch.int64),
            media_mask=mask,
            pixel_values=torch.cat([patches for _, patches, _ in media]) if media else None,
            grid_thw=torch.stack([grid for *_, grid in media]) if media else _NO_MEDIA,
        )

    def _parts(self, pieces: list[str | Medium]) -> Iterator[str | int | Medium]:
        """The pieces, with control tokens of our own text as ids."""
        for piece in pieces:
            if isinstance(piece, Template):
                yield from self.text.split(piece)
            else:
                yield piece

    def _tokens(self, patches: Tensor) -> int:
        return patches.shape[0] // self.pixel_format.merge_size**2


def _record_pieces(human: str, media: tuple[Medium, ...]) -> list[str | Medium]:
    """The human turn of an SFT record with its media in the places of its placeholders."""
    parts = _RECORD_PLACEHOLDER.split(human)
    wanted = [part[1:-1] for part in parts[1::2]]
    given = [medium.kind for medium in media]
    if wanted != given:
        raise ValueError(
            f"human turn: its placeholders {wanted} do not match the media given, {given}"
        )
    queue = iter(media)
    return [next(queue) if place % 2 else part for place, part in enumerate(parts)]
