"""umer1: train, run, serve and evaluate reasoning-driven multimodal embeddings (UME-R1).

    from umer1 import Embedder
    model = Embedder.load("tiny")

Importing this package is light: torch is loaded when the first public name is used.
"""

__version__ = "0.1.0"
__all__ = ["Embedder", "__version__"]


def __getattr__(name: str):
    if name == "Embedder":
        from umer1.embedder import Embedder

        return Embedder
    raise AttributeError(f"module 'umer1' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
