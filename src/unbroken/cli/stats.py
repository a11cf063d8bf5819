"""``unbroken stats``: what a server tells of itself, on one screen."""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table

from unbroken.cli.remote import DEFAULT_URL, Headers, Remote, Token, run
from unbroken.cli.terminal import fail, format_size, print_json
from unbroken.client import AsyncClient, Retry
from unbroken.errors import StreamNotFound

__all__ = ["Samples", "parse_metrics", "stats"]

Samples = Mapping[str, float]
"""Values by name, labels and all, as they stand in the text."""

_SAMPLE = re.compile(r"([a-zA-Z_:][\w:]*(?:\{[^{}]*\})?) (\S+)(?: \S+)?", re.ASCII)
_BOUND = re.compile(r'le="([^"]+)"')


def parse_metrics(text: str) -> Samples:
    """Read the text format of Prometheus, as far as Unbroken writes it. Lines that are something else are left out."""
    samples: dict[str, float] = {}
    for line in text.splitlines():
        match = _SAMPLE.fullmatch(line)
        if match is not None:
            try:
                samples[match[1]] = float(match[2])
            except ValueError:
                continue
    return samples


def stats(
    url: Annotated[str, typer.Argument(envvar="UNBROKEN_URL", help="The server.")] = DEFAULT_URL,
    json: Annotated[bool, typer.Option("--json", help="One line of JSON: all values by name.")] = False,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Go on, with rates, until Ctrl-C.")] = False,
    interval: Annotated[float, typer.Option(min=0.1, max=3600, help="Seconds between two looks.")] = 2.0,
    token: Token = None,
    header: Headers = None,
) -> None:
    """Show what a server does: streams, rates, latencies, readers, disk, refusals.

    Without --watch rates and latencies are of all the time since the server was started; with it, of the time since the
    last look. A token needs the scope read:/-/metrics.

    Exit codes: 0 shown, 1 refused, or this server tells nothing, 2 not understood, 3 the server cannot be reached.
    """
    remote = Remote.of(url, token, header)

    async def work() -> None:
        console = Console()
        screen = Live(console=console, auto_refresh=False) if watch and not json and console.is_terminal else None
        # Who asks once wants to know now; who watches also wants to see a restart through.
        retry = Retry(give_up_after_s=30.0 if watch else 0.0)
        async with AsyncClient(remote.url, token=remote.token, headers=remote.headers, retry=retry) as client:
            with screen or nullcontext():
                before: Samples = {}
                begun_s = None
                while True:
                    try:
                        samples = parse_metrics(await client.metrics())
                    except StreamNotFound:
                        fail(f"{remote.url} tells nothing of itself", 1)
                    now_s = time.time()
                    since_s = samples.get("process_start_time_seconds", now_s) if begun_s is None else begun_s
                    if json:
                        print_json(samples)
                        sys.stdout.flush()
                    elif screen is not None:
                        screen.update(_table(samples, before, now_s - since_s), refresh=True)
                    else:
                        console.print(_table(samples, before, now_s - since_s))
                    if not watch:
                        return
                    before, begun_s = samples, now_s
                    await asyncio.sleep(interval)

    run(work)


def _table(samples: Samples, before: Samples, span_s: float) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_column(style="dim")
    for row in _rows(samples, before, max(span_s, 0.001)):
        table.add_row(*row)
    return table


def _rows(samples: Samples, before: Samples, span_s: float) -> Iterator[tuple[str, str, str]]:
    def value(name: str) -> float:
        return samples.get(f"unbroken_{name}", 0)

    def rate(name: str) -> float:
        prefix = f"unbroken_{name}"
        return (_total(samples, prefix) - _total(before, prefix)) / span_s

    def took(name: str) -> str:
        p50, p99 = (_quantile(samples, before, f"unbroken_{name}", share) for share in (0.5, 0.99))
        return "-" if p50 is None or p99 is None else f"{_seconds(p50)}, {_seconds(p99)}"

    yield "streams", f"{value('streams'):,.0f}", format_size(int(value("stored_bytes")))
    yield "requests", f"{rate('http_requests_total'):,.1f}/s", f"{value('connections'):,.0f} connections"
    appends = rate("append_seconds_count")
    yield "appends", f"{appends:,.1f}/s", f"{format_size(int(rate('appended_bytes_total')))}/s"
    yield "  p50, p99 at most", took("append_seconds"), f"{value('queued_writes'):,.0f} waiting"
    yield "  commits", f"{rate('commit_seconds_count'):,.1f}/s", f"p50, p99 at most {took('commit_seconds')}"
    if "unbroken_sync_seconds_count" in samples:
        yield "  syncs", f"{rate('sync_seconds_count'):,.1f}/s", f"p50, p99 at most {took('sync_seconds')}"
    yield "live reads", f"{value('live_reads'):,.0f}", f"{value('waiting_readers'):,.0f} waiting for news"
    if "unbroken_database_bytes" in samples:
        log = f"log {format_size(int(value('log_bytes')))}"
        yield "database", format_size(int(value("database_bytes"))), log
        yield "disk free", format_size(int(value("disk_free_bytes"))), "FULL" if value("disk_full") else ""
    memory_bytes = int(samples.get("process_resident_memory_bytes", 0))
    cpu_s = samples.get("process_cpu_seconds_total", 0) - before.get("process_cpu_seconds_total", 0)
    yield "memory", format_size(memory_bytes), f"{cpu_s / span_s:.0%} of a core"
    if not value("writable"):
        yield "WRITABLE", "no", "an I/O error made the store read-only: see the log, then restart"
    for name in sorted(samples):
        if name.startswith("unbroken_refusals_total{") and (refused := samples[name] - before.get(name, 0)):
            yield "refused", f"{refused:,.0f}", name.split('"')[1]


def _total(samples: Samples, name: str) -> float:
    """The value of a metric, or the sum over its labels."""
    return sum(value for key, value in samples.items() if key == name or key.startswith(f"{name}{{"))


def _quantile(samples: Samples, before: Samples, name: str, share: float) -> float | None:
    """The bound below which so large a share of the values was; None if there was none."""
    counts: list[tuple[float, float]] = []
    for key, count in samples.items():
        if key.startswith(f"{name}_bucket{{") and (bound := _BOUND.search(key)) is not None:
            counts.append((float(bound[1]), count - before.get(key, 0)))
    counts.sort()
    if not counts or not counts[-1][1]:
        return None
    return next(bound for bound, count in counts if count >= share * counts[-1][1])


def _seconds(seconds: float) -> str:
    if seconds == float("inf"):
        return "over 10 s"
    return f"{seconds:g} s" if seconds >= 1 else f"{seconds * 1000:g} ms"
