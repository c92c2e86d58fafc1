"""What annotation writes is what training supervises."""

from umer1.data import open_set
from umer1.data.annotation.sides import response, sft_record
from umer1.data.media_names import MediaNames
from umer1.data.records import sft_pair
from umer1.embedder import BUNDLED
from umer1.processor import Processor
from umer1.training.encoded import IGNORED, encode_side


def test_annotated_pairs_train_like_the_released_ones(records, tmp_path):
    processor = Processor.load(BUNDLED["tiny"])
    store = open_set(records / "rl.json", "rl", root=records)
    named = MediaNames(records, tmp_path)
    wanted = [response("It is so.", "it"), response("It is not.", "that")]
    for pair in store:
        record = sft_record(pair, wanted, named)
        again = sft_pair(record, "w", str(records), "x")
        assert (again.query.images, again.query.video) == (pair.query.images, pair.query.video)
        for side, text in zip((again.query, again.target), wanted, strict=True):
            encoded = encode_side(side, processor, 4096, "w")
            ids = encoded.sequence.input_ids[encoded.labels != IGNORED].tolist()
            assert processor.decode(ids) == f"{text}<|im_end|>\n"
            assert ids.count(processor.gen_id) == 1
