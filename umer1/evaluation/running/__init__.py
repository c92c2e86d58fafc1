"""How a run goes: sides of tasks through the embedder, a journal, ranks, progress."""
