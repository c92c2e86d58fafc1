"""Prometheus metrics of one server, in a registry of its own.

Rates are for Prometheus to compute: rate(umer1_generated_tokens_total[1m]) are tokens per second.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from umer1.serving.runner import Computed, Runner
from umer1.serving.settings import EmbedOptions

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """What `/metrics` shows. Give `answered` to the middleware that sees every answer."""

    def __init__(self, runner: Runner):
        self.registry = CollectorRegistry()
        counter = lambda name, text, labels=(): Counter(name, text, labels, registry=self.registry)
        self._responses = counter(
            "umer1_http_responses_total",
            "Answers by route and status; 499: the client left before.",
            ("route", "status"),
        )
        self._embeddings = counter(
            "umer1_embeddings_total", "Vectors computed: samples, and disc vectors.", ("kind",)
        )
        self._prompt = counter("umer1_prompt_tokens_total", "Tokens of prompts, media included.")
        self._generated = counter("umer1_generated_tokens_total", "Tokens written.")
        self._finished = counter(
            "umer1_generations_total", "Samples by how they ended.", ("finish",)
        )
        self._seconds = Histogram(
            "umer1_item_seconds",
            "From an item's arrival in the queue to its vectors.",
            ("mode",),
            buckets=SECONDS,
            registry=self.registry,
        )
        self._requests = Histogram(
            "umer1_request_seconds",
            "From a request's first byte to the end of its answer.",
            ("route",),
            buckets=SECONDS,
            registry=self.registry,
        )
        self.registry.register(_Gauges(runner))
        runner.watchers.append(self.computed)

    def computed(self, options: EmbedOptions, computed: Computed) -> None:
        """Count one item."""
        embeddings = computed.embeddings
        self._prompt.inc(computed.prompt_tokens)
        self._seconds.labels(options.mode).observe(computed.seconds)
        if embeddings.disc is not None:
            self._embeddings.labels("disc").inc()
        if embeddings.gen is not None:
            self._embeddings.labels("gen").inc(options.n)
            several = options.n > 1
            self._generated.inc(sum(embeddings.tokens[0]) if several else embeddings.tokens[0])
            for finish in embeddings.finish[0] if several else embeddings.finish:
                self._finished.labels(finish).inc()

    def answered(self, scope: dict, status: int, seconds: float) -> None:
        """Count one answer. Paths that are no route count as one: clients make up any number."""
        route = getattr(scope.get("route"), "path", "other")
        self._responses.labels(route, str(status)).inc()
        self._requests.labels(route).observe(seconds)

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self.registry)


class _Gauges(Collector):
    def __init__(self, runner: Runner):
        self.runner = runner

    def collect(self) -> Iterator[GaugeMetricFamily]:
        state = self.runner.describe()
        for name, key, text in (
            ("umer1_queue_rows", "waiting", "Rows that wait."),
            ("umer1_queue_limit_rows", "max_waiting", "Rows that may wait."),
            ("umer1_running_rows", "running", "Rows that the engine writes."),
            ("umer1_slots", "slots", "Rows that may run together."),
            ("umer1_kv_pages", "pages", "Pages of keys and values there are."),
            ("umer1_kv_pages_held", "pages_held", "Pages that requests hold."),
            ("umer1_kv_pages_kept", "pages_kept", "Pages of prompts that may come again."),
            ("umer1_feature_bytes", "feature_bytes", "Visual features of media seen before."),
            ("umer1_tasks", "tasks", "Tasks of the event loop, this request's among them."),
            ("umer1_engine_failures", "engine_failures", "Steps that failed."),
            ("umer1_ready", "ready", "1: takes requests."),
        ):
            yield GaugeMetricFamily(name, text, float(state[key]))
