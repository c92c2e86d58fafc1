"""The HTTP server: OpenAI's embeddings and chat on the engine, continuous batching across requests.

    from umer1 import Embedder
    from umer1.serving import ServerSettings, create_app
    app = create_app(Embedder.load("tiny"), ServerSettings(model_name="tiny"))

`umer1 serve` runs it. Importing this package loads neither torch nor FastAPI.
"""

from umer1.serving.errors import ApiError
from umer1.serving.settings import EmbedOptions, ServerSettings

__all__ = ["ApiError", "EmbedOptions", "ServerSettings", "create_app"]


def __getattr__(name: str):
    if name == "create_app":
        from umer1.serving.app import create_app

        return create_app
    raise AttributeError(f"module 'umer1.serving' has no attribute {name!r}")
