"""UME-R1's vectors in an index of LlamaIndex: texts, and a picture as the query.

python examples/search_llama_index.py               # the bundled model; or --model zhibinlan/UME-R1-2B
"""

import argparse
import tempfile
from pathlib import Path

from llama_index.core import Document, VectorStoreIndex
from llama_index.core.schema import QueryBundle
from PIL import Image
from skimage import data

from umer1 import Embedder
from umer1.integrations.llama_index import Umer1Embedding

parser = argparse.ArgumentParser()
parser.add_argument("--model", default="tiny")
parser.add_argument("--mode", default="disc", choices=("disc", "gen"))
arguments = parser.parse_args()

embedding = Umer1Embedding(Embedder.load(arguments.model), mode=arguments.mode, max_new_tokens=64)
texts = ["a red bicycle", "a cat on a chair", "a cup of coffee", "the digit seven"]
index = VectorStoreIndex.from_documents([Document(text=text) for text in texts], embed_model=embedding)  # fmt: skip
retriever = index.as_retriever(similarity_top_k=3)
for found in retriever.retrieve("a cup of black coffee"):
    print(f"text: {found.score:.3f} {found.text}")

with tempfile.TemporaryDirectory() as folder:
    path = str(Path(folder) / "coffee.png")
    Image.fromarray(data.coffee()).save(path)
    query = QueryBundle("", embedding=embedding.get_image_embedding(path))
    for found in retriever.retrieve(query):
        print(f"picture: {found.score:.3f} {found.text}")
