"""LangChain's and LlamaIndex's embeddings are the Embedder's vectors."""

import asyncio

import numpy as np
import pytest
import torch

from umer1 import Embedder

TEXTS = ["a red bicycle", "seven", "a cat"]


@pytest.fixture(scope="module")
def embedder():
    return Embedder.load("tiny", dtype=torch.float32)


@pytest.fixture(scope="module")
def expected(embedder):
    return {
        "disc": embedder.encode([*TEXTS, "Find: seven"], "disc", progress=False).disc,
        "gen": embedder.encode([*TEXTS, "Find: seven"], "gen", 12, progress=False).gen,
    }


@pytest.mark.parametrize("mode", ["disc", "gen"])
def test_langchain(embedder, expected, mode):
    pytest.importorskip("langchain_core")
    from langchain_core.vectorstores import InMemoryVectorStore

    from umer1.integrations.langchain import Umer1Embeddings

    embeddings = Umer1Embeddings(embedder, mode, "Find: ", max_new_tokens=12)
    np.testing.assert_allclose(embeddings.embed_documents(TEXTS), expected[mode][:3], atol=2e-6)
    np.testing.assert_allclose(embeddings.embed_query("seven"), expected[mode][3], atol=2e-6)
    assert embeddings.embed_documents([]) == []

    async def together():
        return await asyncio.gather(*(embeddings.aembed_query("seven") for _ in range(4)))

    np.testing.assert_allclose(asyncio.run(together()), [expected[mode][3]] * 4, atol=2e-6)
    store = InMemoryVectorStore(Umer1Embeddings(embedder, mode, max_new_tokens=12))
    store.add_texts(TEXTS)
    ((found, score),) = store.similarity_search_with_score("seven", k=1)
    assert found.page_content == "seven" and score == pytest.approx(1, abs=1e-5)
    with pytest.raises(ValueError, match="mode: got 'both'"):
        Umer1Embeddings(embedder, "both")


@pytest.mark.slow  # its import takes long
@pytest.mark.parametrize("mode", ["disc", "gen"])
def test_llama_index(embedder, expected, mode, pictures, tmp_path):
    pytest.importorskip("llama_index.core")
    from llama_index.core import Document, VectorStoreIndex

    from umer1.integrations.llama_index import Umer1Embedding

    embedding = Umer1Embedding(embedder, mode, "Find: ", max_new_tokens=12)
    texts = embedding.get_text_embedding_batch(TEXTS)
    np.testing.assert_allclose(texts, expected[mode][:3], atol=2e-6)
    np.testing.assert_allclose(embedding.get_text_embedding("seven"), expected[mode][1], atol=2e-6)
    for query in (
        embedding.get_query_embedding("seven"),
        asyncio.run(embedding.aget_query_embedding("seven")),
    ):
        np.testing.assert_allclose(query, expected[mode][3], atol=2e-6)
    path = str(tmp_path / "picture.png")
    pictures[0].save(path)
    own = getattr(embedder.encode(pictures[0], mode, 12, progress=False), mode)[0]
    np.testing.assert_allclose(embedding.get_image_embedding(path), own, atol=2e-6)
    index = VectorStoreIndex.from_documents(
        [Document(text=text) for text in TEXTS],
        embed_model=Umer1Embedding(embedder, mode, max_new_tokens=12),
    )
    (found,) = index.as_retriever(similarity_top_k=1).retrieve("seven")
    assert found.text == "seven" and found.score == pytest.approx(1, abs=1e-5)
    with pytest.raises(ValueError, match="mode: got 'both'"):
        Umer1Embedding(embedder, "both")
