"""UME-R1 as LangChain's text embeddings (langchain-core 1.7).

from umer1.integrations.langchain import Umer1Embeddings

store = InMemoryVectorStore(Umer1Embeddings(Embedder.load("zhibinlan/UME-R1-2B"), mode="disc"))
"""

from __future__ import annotations

from typing import Any

from langchain_core.embeddings import Embeddings

from umer1.embedder import Embedder


class Umer1Embeddings(Embeddings):
    """mode: "disc" or "gen". query_instruction: goes before queries. options: of `Embedder.encode`."""

    def __init__(
        self, embedder: Embedder, mode: str = "disc", query_instruction: str = "", **options: Any
    ):
        if mode not in ("disc", "gen"):
            raise ValueError(f"mode: got {mode!r}, wants 'disc' or 'gen'")
        self.embedder, self.mode, self.query_instruction = embedder, mode, query_instruction
        self.options = {"progress": False, **options}

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        encoded = self.embedder.encode(list(texts), mode=self.mode, **self.options)
        return getattr(encoded, self.mode).tolist()

    def embed_query(self, text: str) -> list[float]:
        return self.embed_documents([self.query_instruction + text])[0]
