"""Discriminative embeddings: one forward pass per item.

python examples/embed_disc.py            # the bundled model; or --model zhibinlan/UME-R1-2B
"""

import argparse

from skimage import data

from umer1 import Embedder

parser = argparse.ArgumentParser()
parser.add_argument("--model", default="tiny")
model = Embedder.load(parser.parse_args().model)

queries = [{"image": data.coffee()[:, :400], "text": "Find the photo this piece was cut from."}]
targets = [
    {"image": photo, "text": "Understand the content of the photo."}
    for photo in (data.astronaut(), data.coffee(), data.rocket())
]
found = model.encode(queries, mode="disc", progress=False).disc
known = model.encode(targets, mode="disc", progress=False).disc
for name, similarity in zip(("astronaut", "coffee", "rocket"), found[0] @ known.T, strict=True):
    print(f"piece of coffee, {name}: {similarity:.3f}")
