"""``/-/metrics``: what the server tells of itself, in the text format of Prometheus.

The format is a screenful of code, and counting without locks is what the library for it cannot do; so it is written
here, and read back in the tests by that library's parser.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import version

from unbroken.measures import SECONDS, Histogram, Metric
from unbroken.protocol.headers import ALLOWED_METHODS

__all__ = ["CONTENT_TYPE", "Metrics", "expose", "process_metrics"]

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"

_METHODS = frozenset(ALLOWED_METHODS.split(", "))
_STARTED_S = time.time()


class Metrics:
    """What happens over HTTP, as it happens.

    Attributes:
        connections: how many are open; None where somebody else keeps them.
    """

    def __init__(self) -> None:
        self._answers: dict[tuple[str, int], int] = {}
        self._refusals: dict[str, int] = {}
        self._append_seconds = Histogram(SECONDS)
        self._connected = 0
        self.connections = 0

    def answered(self, method: str, status: int, begun_s: float) -> None:
        """A request was answered, or its answer begun.

        Args:
            method: of the request.
            status: of the answer.
            begun_s: `time.perf_counter` when the request was there.
        """
        try:
            self._answers[method, status] += 1
        except KeyError:
            known = method if method in _METHODS else "other"
            self._answers[known, status] = self._answers.get((known, status), 0) + 1
        if method == "POST" and status < 300:
            self._append_seconds.observe(time.perf_counter() - begun_s)

    def refused(self, code: str) -> None:
        """Something was refused, for the reason that an error code names."""
        self._refusals[code] = self._refusals.get(code, 0) + 1

    def connected(self) -> None:
        """A client has connected."""
        self._connected += 1
        self.connections += 1

    def disconnected(self) -> None:
        """A connection has ended."""
        self.connections -= 1

    def collect(self) -> Iterator[Metric]:
        """All of it, as it is now."""
        answers = {(method, str(status)): count for (method, status), count in self._answers.items()}
        yield Metric("http_requests_total", "counter", "Requests answered.", answers, ("method", "status"))
        text = "Time from an append's arrival to its answer; the body is waited for, if it comes later."
        yield Metric("append_seconds", "histogram", text, self._append_seconds)
        text = "Refused requests and connections, by the error's code."
        yield Metric("refusals_total", "counter", text, self._refusals, ("code",))
        yield Metric("connections", "gauge", "Open connections (of unbroken serve).", self.connections)
        text = "Connections that were made (to unbroken serve)."
        yield Metric("connections_total", "counter", text, self._connected)


def process_metrics() -> Iterator[Metric]:
    """What Prometheus tells of every process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    text = "User and system time."
    yield Metric("process_cpu_seconds_total", "counter", text, usage.ru_utime + usage.ru_stime)
    yield Metric("process_start_time_seconds", "gauge", "When it was started, Unix time.", _STARTED_S)
    yield Metric("process_max_fds", "gauge", "Open files that it may have.", _limit(resource.RLIMIT_NOFILE))
    if sys.platform == "linux":
        with open("/proc/self/statm", "rb") as file:  # noqa: PTH123 (a Path costs as much as all the rest)
            resident_pages = int(file.read().split()[1])
        memory_bytes = resident_pages * resource.getpagesize()
        yield Metric("process_resident_memory_bytes", "gauge", "Resident memory.", memory_bytes)
        yield Metric("process_open_fds", "gauge", "Open files.", len(os.listdir("/proc/self/fd")))  # noqa: PTH208


def _limit(kind: int) -> float:
    soft = resource.getrlimit(kind)[0]
    return float("inf") if soft == resource.RLIM_INFINITY else soft


def expose(metrics: Iterable[Metric]) -> bytes:
    """Metrics as text, all names but the process's own with the prefix ``unbroken_``."""
    lines = [
        "# HELP unbroken_build_info The version.",
        "# TYPE unbroken_build_info gauge",
        f'unbroken_build_info{{version="{version("unbroken")}"}} 1',
    ]
    for metric in metrics:
        name = metric.name if metric.name.startswith("process_") else f"unbroken_{metric.name}"
        lines += (f"# HELP {name} {metric.text}", f"# TYPE {name} {metric.kind}", *_samples(name, metric))
    return ("\n".join(lines) + "\n").encode()


def _samples(name: str, metric: Metric) -> Iterator[str]:
    value = metric.value
    if isinstance(value, Histogram):
        *counts, count = value.cumulative()
        for bound, at_most in zip(value.bounds, counts, strict=True):
            yield f'{name}_bucket{{le="{_number(bound)}"}} {at_most}'
        yield f'{name}_bucket{{le="+Inf"}} {count}'
        yield f"{name}_sum {_number(value.total)}"
        yield f"{name}_count {count}"
    elif isinstance(value, Mapping):
        for key, number in sorted(value.items()):
            values = (key,) if isinstance(key, str) else key
            pairs = ",".join(f'{label}="{text}"' for label, text in zip(metric.labels, values, strict=True))
            yield f"{name}{{{pairs}}} {_number(number)}"
    else:
        yield f"{name} {_number(value)}"


def _number(value: float) -> str:
    if value == float("inf"):
        return "+Inf"
    return str(int(value)) if value == int(value) else repr(value)
