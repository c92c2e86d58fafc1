"""Whether training can use a side: its media decoded, or the whole side encoded."""

from __future__ import annotations

from collections.abc import Callable

from umer1.data.records import Side
from umer1.data.side_media import side_media
from umer1.media import MediaError, check_ratio, load_image, load_video
from umer1.prompts import DISC_TOKEN, GEN_TOKEN, Item


def decode(side: Side, where: str) -> None:
    """Raises MediaError for what is damaged, too large or of proportions that no model takes."""
    pictures = [load_image(image, where) for image in side.images]
    if side.video:
        pictures += load_video(side.video, where, num_frames=len(side.video))[:1]  # of one size
    for picture in pictures:
        try:
            check_ratio(picture.height, picture.width)
        except MediaError as error:
            raise MediaError(f"{where}: {error}") from None


def exact_tokens(model: str) -> Callable[[Side, str], int]:
    """(side, where) -> tokens of the side as training this model encodes it; MediaError where it cannot be."""
    from umer1.embedder import BUNDLED
    from umer1.processor import SFT_LIMITS, Processor
    from umer1.processor_files import load_tokenizer

    source = BUNDLED.get(model, model)
    tokenizer = load_tokenizer(source)
    tokenizer.add_tokens([GEN_TOKEN, DISC_TOKEN])  # a base model lacks them until it is trained
    processor = Processor.load(source, tokenizer=tokenizer, default_limits=SFT_LIMITS)

    def tokens(side: Side, where: str) -> int:
        media = side_media(side, where)
        if side.response is None:
            return len(processor.encode(Item(side.text, media), mode="gen", dialect="rl"))
        return len(processor.encode_turns(side.text, side.response, media)[1])

    return tokens
