"""What the server allows, and what may be asked of it for one item."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

MIB = 1 << 20
MODES = ("disc", "gen", "both")


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """The limits of one server.

    Attributes:
        model_name: what requests call the model; one that names another is refused.
        model_identity: name and digest of the weights, to which indexes are tied.
        mode: of requests that name none.
        api_keys: any of them opens /v1 and /metrics; none: everything is open.
        max_body_bytes: of a request.
        max_items: inputs in one request.
        max_text_characters: of one input, all its parts together.
        max_prompt_tokens: of one input with its media: the engine reads a prompt in one step, in time
            that grows with its square, and everybody waits.
        max_media_per_item: pictures and clips of one input.
        allow_media_urls: fetch media from http(s) addresses; data URIs always work.
        media_domains: fetch from these domains (and what is below them) only; none: from any.
        media_ports: ports of addresses that may be asked.
        max_waiting: rows (inputs times samples) that may wait while others run; more get 429.
        request_seconds: from a request's first byte to its answer, then 504.
        drain_seconds: how long requests may go on after SIGTERM.
        max_tokens: most that one sample may write.
        prepare_threads: threads that open media, cut patches and tokenise.
    """

    model_name: str = "tiny"
    model_identity: str = ""
    mode: str = "gen"
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    max_body_bytes: int = 64 * MIB
    max_items: int = 256
    max_text_characters: int = 65_536
    max_prompt_tokens: int = 16_384
    max_media_per_item: int = 16
    allow_media_urls: bool = False
    media_domains: tuple[str, ...] = ()
    media_ports: tuple[int, ...] = (80, 443)
    max_waiting: int = 1024
    request_seconds: float = 300.0
    drain_seconds: float = 30.0
    max_tokens: int = 2048
    prepare_threads: int = 4

    def __post_init__(self):
        if self.mode not in MODES:
            raise ValueError(f"mode: got {self.mode!r}, wants one of {', '.join(MODES)}")
        for each in fields(self):
            value = getattr(self, each.name)
            if each.type in ("int", "float") and not 0 < value < float("inf"):
                raise ValueError(f"{each.name}: got {value}, wants a number above 0")
        if any(not key for key in self.api_keys):
            raise ValueError("api_keys: one of them is empty")


@dataclass(frozen=True, slots=True)
class EmbedOptions:
    """How one item is embedded; the arguments of `Embedder.encode` of the same names give the same
    bits. number: the item's place in the list that would be given there."""

    mode: str = "gen"
    n: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    number: int = 0
    max_new_tokens: int = 512
    max_think_tokens: int | None = None
    readout: str = "at"

    def __post_init__(self):
        if self.mode not in MODES:
            raise ValueError(f"mode: got {self.mode!r}, wants one of {', '.join(MODES)}")
        if self.readout not in ("at", "after"):
            raise ValueError(f"readout: got {self.readout!r}, wants 'at' or 'after'")
        if self.n < 1 or (self.n > 1 and (self.temperature == 0 or self.mode == "disc")):
            raise ValueError(
                f"n: got {self.n} with temperature {self.temperature:g} and mode {self.mode!r}; "
                "several samples need a generative mode and a temperature above 0"
            )

    @property
    def samples(self) -> int:
        """Rows that write: none for disc."""
        return 0 if self.mode == "disc" else self.n

    @property
    def rows(self) -> int:
        """What the item counts in the queue."""
        return max(1, self.samples)
