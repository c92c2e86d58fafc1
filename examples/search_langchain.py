"""UME-R1's vectors in a vector store of LangChain.

python examples/search_langchain.py                 # the bundled model; or --model zhibinlan/UME-R1-2B
"""

import argparse

from langchain_core.vectorstores import InMemoryVectorStore

from umer1 import Embedder
from umer1.integrations.langchain import Umer1Embeddings

parser = argparse.ArgumentParser()
parser.add_argument("--model", default="tiny")
parser.add_argument("--mode", default="disc", choices=("disc", "gen"))
arguments = parser.parse_args()

embeddings = Umer1Embeddings(Embedder.load(arguments.model), mode=arguments.mode, max_new_tokens=64)
store = InMemoryVectorStore(embeddings)
store.add_texts(["a red bicycle", "a cat on a chair", "a cup of coffee", "the digit seven"])
for document, score in store.similarity_search_with_score("a cup of black coffee", k=3):
    print(f"{score:.3f} {document.page_content}")
