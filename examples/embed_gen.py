"""Generative embeddings: the model reasons, summarises, and the state that reads <gen_emb> is the vector.

python examples/embed_gen.py             # the bundled model; or --model zhibinlan/UME-R1-2B
"""

import argparse

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from umer1 import Embedder

parser = argparse.ArgumentParser()
parser.add_argument("--model", default="tiny")
model = Embedder.load(parser.parse_args().model)

# four handwritten digits side by side, dark ink on light paper
digits = load_digits()
row = np.hstack([255 - 15 * digits.images[number] for number in (1793, 1794, 1795, 1796)])
picture = Image.fromarray(row.astype(np.uint8)).resize((112, 28), Image.Resampling.BICUBIC)
print("digits shown:", digits.target[1793:1797])

question = "What is the last digit of the sum of the digits in the picture?"
out = model.encode(
    {"image": picture, "text": question}, mode="gen", max_new_tokens=64, progress=False
)
print("reasoning:", out.reasoning[0])
print("summary:  ", out.summary[0], f"({out.tokens[0]} tokens, finished by {out.finish[0]})")

answers = [str(number) for number in range(10)]
known = model.encode(answers, mode="gen", max_new_tokens=64, progress=False)
print("nearest answer:", answers[int((out.gen[0] @ known.gen.T).argmax())])

# eight samples instead of one greedy answer: what pass@k looks at
samples = model.encode({"image": picture, "text": question}, mode="gen", max_new_tokens=64, temperature=1.0, n=8,
                       seed=0, progress=False)  # fmt: skip
print("sampled summaries:", samples.summary[0])
