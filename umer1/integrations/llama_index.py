"""UME-R1 as LlamaIndex's embeddings of texts and images (llama-index-core 0.14).

from umer1.integrations.llama_index import Umer1Embedding

index = VectorStoreIndex.from_documents(
    documents, embed_model=Umer1Embedding(Embedder.load("zhibinlan/UME-R1-2B"), mode="disc")
)
"""

from __future__ import annotations

from typing import Any

from llama_index.core.base.embeddings.base import Embedding
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.embeddings import MultiModalEmbedding

from umer1.embedder import Embedder


class Umer1Embedding(MultiModalEmbedding):
    """mode: "disc" or "gen". query_instruction: goes before queries. options: of `Embedder.encode`."""

    mode: str
    query_instruction: str
    _embedder: Embedder = PrivateAttr()
    _options: dict = PrivateAttr()

    def __init__(
        self, embedder: Embedder, mode: str = "disc", query_instruction: str = "", **options: Any
    ):
        if mode not in ("disc", "gen"):
            raise ValueError(f"mode: got {mode!r}, wants 'disc' or 'gen'")
        super().__init__(mode=mode, query_instruction=query_instruction, model_name="umer1")
        self._embedder, self._options = embedder, {"progress": False, **options}

    def _encode(self, items: list) -> list[Embedding]:
        encoded = self._embedder.encode(items, mode=self.mode, **self._options)
        return getattr(encoded, self.mode).tolist()

    def _get_text_embeddings(self, texts: list[str]) -> list[Embedding]:
        return self._encode(texts)

    def _get_text_embedding(self, text: str) -> Embedding:
        return self._encode([text])[0]

    def _get_query_embedding(self, query: str) -> Embedding:
        return self._encode([self.query_instruction + query])[0]

    def _get_image_embedding(self, img_file_path: Any) -> Embedding:
        return self._encode([{"image": img_file_path}])[0]

    # an Embedder runs one call at a time, so nothing is gained by threads
    async def _aget_query_embedding(self, query: str) -> Embedding:
        return self._get_query_embedding(query)

    async def _aget_image_embedding(self, img_file_path: Any) -> Embedding:
        return self._get_image_embedding(img_file_path)
