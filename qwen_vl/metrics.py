"""Figures for Prometheus: what was asked, what went wrong, how fast answers were.

`Measured` wraps an engine and counts everything that goes through it. Whatever is logged with a
traceback counts as a bug. Knows the engine's interface and nothing of HTTP. No text or picture
leaves a trace here.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Iterator, Sequence

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from qwen_vl.engine import Answer, Engine
from qwen_vl.errors import Bug, UserError
from qwen_vl.sampling import SamplingParams
from qwen_vl.schema import Chunk, Cost, EngineStats, EngineStatus, Message

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_TTFT_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_TOKENS_PER_S = (0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500)


class Metrics:
    """All figures of one server, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)  # memory, CPU time, open files
        PlatformCollector(registry=self.registry)
        self.requests = self._counter("http_requests", "HTTP calls", "route", "status")
        self.errors = self._counter(
            "errors", "What the engine refused or broke on; bug: any traceback in the log", "code"
        )
        bugs = _Bugs(self.errors)
        logging.getLogger().addHandler(bugs)
        weakref.finalize(self, logging.getLogger().removeHandler, bugs)
        self.answers = self._counter("answers", "Answers that ended", "finish_reason")
        self.tokens = self._counter("tokens", "Tokens of prompts and answers", "kind")
        self.ttft_s = self._histogram("time_to_first_token_seconds", "Queueing included", _TTFT_S)
        self.speed = self._histogram("tokens_per_second", "Of one answer", _TOKENS_PER_S)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"qwen_vl_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"qwen_vl_{name}", text, buckets=buckets, registry=self.registry)

    def error(self, error: UserError) -> None:
        """Counts one error by its kind. Bugs are counted where they are logged."""
        if not isinstance(error, Bug):
            self.errors.labels(error.code).inc()

    def ended(self, last: Chunk | UserError) -> None:
        """Counts an answer that has ended, or failed."""
        if isinstance(last, UserError):
            self.error(last)
            return
        self.answers.labels(last.finish_reason).inc()
        if last.usage is None:
            return
        self.tokens.labels("prompt").inc(last.usage.prompt_tokens)
        self.tokens.labels("cached").inc(last.usage.cached_tokens)
        self.tokens.labels("completion").inc(last.usage.completion_tokens)
        self.tokens.labels("draft_accepted").inc(last.usage.accepted_tokens)
        self.tokens.labels("draft_rejected").inc(last.usage.rejected_tokens)
        if last.usage.completion_tokens:
            self.ttft_s.observe(last.usage.ttft_s)
        if last.usage.tokens_per_s:
            self.speed.observe(last.usage.tokens_per_s)

    def text(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self.registry)


class _Bugs(logging.Handler):
    """Counts what is logged with a traceback: page, API, jobs and engines all log their bugs so."""

    def __init__(self, errors: Counter) -> None:
        super().__init__(logging.ERROR)
        self._bugs = errors.labels("bug")

    def emit(self, record: logging.LogRecord) -> None:
        kind = record.exc_info[0] if record.exc_info else None
        if kind is not None and not issubclass(kind, UserError):
            self._bugs.inc()


class _EngineCollector(Collector):
    """Reads the engine's own numbers when they are asked for."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        stats, status = self._engine.stats(), self._engine.status()
        yield _gauge("ready", "1 while requests are taken", float(status.answers))
        yield _gauge("requests_waiting", "Requests in the queue", stats.waiting)
        yield _gauge("batch_rows", "Answers being written now", stats.running)
        yield _gauge("gpu_memory_bytes", "Allocated on all GPUs", stats.gpu_bytes)
        hits = CounterMetricFamily(
            "qwen_vl_cache_lookups", "Prompts and pictures looked up", labels=["cache", "result"]
        )
        size = GaugeMetricFamily("qwen_vl_cache_bytes", "Memory in use", labels=["cache"])
        for cache, found, missed, used in (
            ("prefix", stats.prefix_hits, stats.prefix_misses, stats.prefix_bytes),
            ("vision", stats.vision_hits, stats.vision_misses, stats.vision_bytes),
        ):
            hits.add_metric([cache, "hit"], found)
            hits.add_metric([cache, "miss"], missed)
            size.add_metric([cache], used)
        yield hits
        yield size
        healthy = GaugeMetricFamily("qwen_vl_upstream_healthy", "1 if it answers", labels=["url"])
        running = GaugeMetricFamily("qwen_vl_upstream_running", "Answers of ours", labels=["url"])
        for upstream in stats.upstreams:
            healthy.add_metric([upstream.url], float(upstream.healthy))
            running.add_metric([upstream.url], upstream.running)
        yield healthy
        yield running


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"qwen_vl_{name}", text, value=value)


class Measured:
    """An `Engine` that passes everything on and counts it."""

    def __init__(self, engine: Engine, metrics: Metrics, gauges: bool = True) -> None:
        """`gauges`: whether the engine's own numbers are told, which those of one engine may be."""
        self._engine = engine
        self._metrics = metrics
        if gauges:
            metrics.registry.register(_EngineCollector(engine))

    @property
    def model_id(self) -> str:
        return self._engine.model_id

    def status(self) -> EngineStatus:
        return self._engine.status()

    def stats(self) -> EngineStats:
        return self._engine.stats()

    def stream(
        self, messages: Sequence[Message], params: SamplingParams, scope: str = ""
    ) -> Answer:
        try:
            answer = self._engine.stream(messages, params, scope)
        except UserError as error:
            self._metrics.error(error)
            raise
        answer.when_ended(self._metrics.ended)
        return answer

    def count(
        self, messages: Sequence[Message], params: SamplingParams, scope: str = ""
    ) -> Cost | None:
        return self._engine.count(messages, params, scope)

    def drain(self, seconds: float) -> None:
        self._engine.drain(seconds)

    def close(self) -> None:
        self._engine.close()
