"""UME-R1 as a SentenceTransformer: pictures and texts, disc and gen vectors, a directory that loads.

python examples/embed_sentence_transformers.py      # the bundled model; or --model zhibinlan/UME-R1-2B
"""

import argparse
import tempfile

from PIL import Image
from sentence_transformers import SentenceTransformer
from skimage import data

from umer1.integrations.sentence_transformers import to_sentence_transformer

parser = argparse.ArgumentParser()
parser.add_argument("--model", default="tiny")
parser.add_argument("--save", help="keep the directory here")
arguments = parser.parse_args()

pictures = {name: Image.fromarray(getattr(data, name)()) for name in ("astronaut", "coffee", "chelsea")}  # fmt: skip
queries = ["a cup of coffee", "a cat", "an astronaut"]

model = to_sentence_transformer(arguments.model, prompts={"query": "Find a picture of "})
for mode in ("disc", "gen"):
    found = model.similarity(
        model.encode_query(queries, mode=mode, max_new_tokens=64),
        model.encode_document(list(pictures.values()), mode=mode, max_new_tokens=64),
    )
    for query, row in zip(queries, found):
        print(f"{mode}: {query}:", *(f"{name} {cosine:.2f}" for name, cosine in zip(pictures, row)))

details = model.encode(pictures["coffee"], mode="gen", max_new_tokens=64, output_value=None)
print("reasoning, summary:", model[0].read(details["completion_ids"]))

directory = arguments.save or tempfile.mkdtemp()
model.save_pretrained(directory)
again = SentenceTransformer(directory, trust_remote_code=True)  # it names a class of umer1
same = (again.encode(queries) == model.encode(queries)).all()
print("saved and loaded, the same vectors:", bool(same))
