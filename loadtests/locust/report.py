"""The page that tells of a test, with its pictures inside; beside it what locust reports itself, and the figures."""

import base64
import html
import io
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from loadtests.locust.watch import Look, percentile, write

PAGE, LOCUST, LOOKS, SUMMARY = "report.html", "locust.html", "looks.json", "summary.json"
_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse}td,th{padding:.2rem .7rem;border-bottom:1px solid #ddd;text-align:right}"
    "td:first-child,th:first-child{text-align:left}img{max-width:100%}.bad{color:#b00}"
)


def entries(stats: Any) -> list[dict[str, Any]]:
    """Each protocol, and all of them, from locust's statistics."""
    found = sorted(stats.entries.values(), key=lambda entry: str(entry.name))
    return [_entry(entry) for entry in found] + [_entry(stats.total)]


def _entry(entry: Any) -> dict[str, Any]:
    some = bool(entry.num_requests)
    return {
        "name": "all" if entry.name == "Aggregated" else entry.name,
        "requests": entry.num_requests,
        "failures": entry.num_failures,
        "per_s": round(entry.total_rps, 1),
        **{
            f"p{share * 100:g}_ms": entry.get_response_time_percentile(share) if some else None
            for share in (0.5, 0.95, 0.99)
        },
        "most_ms": round(entry.max_response_time, 1) if some else None,
    }


def by_users(looks: Sequence[Look]) -> list[dict[str, Any]]:
    """Each number of users that stayed for more than one look: rate, latencies and the server's figures at it.

    The first look at a number is left out: users were still coming or going.
    """
    groups: dict[int, list[Look]] = {}
    previous = None
    for look in looks:
        if look.users == previous:
            groups.setdefault(look.users, []).append(look)
        previous = look.users
    return [_group(users, group) for users, group in sorted(groups.items()) if users]


def _group(users: int, group: Sequence[Look]) -> dict[str, Any]:
    latencies: Counter[int] = sum((look.latencies for look in group), Counter())

    def mean(value: Callable[[Look], float | None]) -> float | None:
        found = [each for look in group if (each := value(look)) is not None]
        return sum(found) / len(found) if found else None

    return {
        "users": users,
        "answered_per_s": mean(lambda look: look.answered_per_s),
        "p50_ms": percentile(latencies, 0.5),
        "p99_ms": percentile(latencies, 0.99),
        "queue_rows": mean(lambda look: look.queue_rows),
        "rows_per_batch": mean(lambda look: look.rows_per_batch),
        "locust_percent": max(look.locust_percent for look in group),
        "cores": mean(lambda look: look.cores),
    }


def write_all(directory: Path, environment: Any, looks: Sequence[Look], told: Mapping[str, Any]) -> Path:
    """The page and what belongs to it. `told`: what was chosen, by name. Returns the page's path."""
    from locust.html import get_html_report

    directory.mkdir(parents=True, exist_ok=True)
    (directory / LOCUST).write_text(get_html_report(environment, show_download_link=False), encoding="utf-8")
    write(directory / LOOKS, looks)
    errors = [
        {"name": error.name, "error": str(error.error), "times": error.occurrences}
        for error in environment.stats.errors.values()
    ]
    summary = {
        "options": dict(told),
        "entries": entries(environment.stats),
        "errors": errors,
        "by_users": by_users(looks),
    }
    (directory / SUMMARY).write_text(json.dumps(summary, indent=1, default=str) + "\n", encoding="utf-8")
    page = directory / PAGE
    page.write_text(_page(summary, pictures(looks)), encoding="utf-8")
    return page


def pictures(looks: Sequence[Look]) -> dict[str, bytes]:
    """PNG by title. None without matplotlib, or of nothing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return {}
    return {"Latency against load": _against_load(looks), "Over time": _over_time(looks)} if looks else {}


@contextmanager
def _figure(into: io.BytesIO, rows: int, columns: int, size: tuple[float, float], sharex: bool) -> Iterator[Any]:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    made, axes = pyplot.subplots(rows, columns, figsize=size, layout="constrained", sharex=sharex)
    try:
        yield axes
        for each in axes.flat:
            each.grid(alpha=0.3)
            if each.get_legend_handles_labels()[0]:
                each.legend()
        made.savefig(into, dpi=110, format="png")
    finally:
        pyplot.close(made)


def _against_load(looks: Sequence[Look]) -> bytes:
    """Latency of each look and of each number of users, by the requests that were answered; the server meanwhile."""
    into, groups = io.BytesIO(), by_users(looks)
    with _figure(into, 2, 2, (12, 8), False) as ((latency, batches), (queue, cores)):
        for share, colour, key in ((0.5, "tab:blue", "p50_ms"), (0.99, "tab:red", "p99_ms")):
            points = [(k.answered_per_s, p) for k in looks if (p := percentile(k.latencies, share)) is not None]
            _draw(latency, points, "o", color=colour, markersize=3, alpha=0.25)
            _draw(latency, _of_groups(groups, key), "o-", color=colour, label=f"{key.removesuffix('_ms')}, by users")
        for group in groups:
            if group["p99_ms"] is not None:
                latency.annotate(f"{group['users']} users", (group["answered_per_s"], group["p99_ms"]), fontsize=8)
        latency.set(ylabel="latency [ms]", title="clients")
        _logarithmic(latency)
        for axes, key, label in (
            (batches, "rows_per_batch", "rows per batch"),
            (queue, "queue_rows", "rows in the queue"),
            (cores, "cores", "CPU of the server [cores]"),
        ):
            _draw(axes, [(look.answered_per_s, getattr(look, key)) for look in looks], "o", markersize=3, alpha=0.25)
            _draw(axes, _of_groups(groups, key), "o-", color="tab:blue")
            axes.set(ylabel=label, title="the server, by its own metrics", ylim=(0, None))
        for axes in (queue, cores):
            axes.set_xlabel("answered per second")
    return into.getvalue()


def _of_groups(groups: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float | None]]:
    return [(group["answered_per_s"], group[key]) for group in groups]


def _draw(axes: Any, points: Sequence[tuple[float, float | None]], form: str, **more: Any) -> None:
    """Those points that are known."""
    known = [(x, y) for x, y in points if y is not None]
    if known:
        axes.plot(*zip(*known, strict=True), form, **more)


def _logarithmic(axes: Any) -> None:
    """The y axis, with plain numbers."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _over_time(looks: Sequence[Look]) -> bytes:
    into = io.BytesIO()
    at = [look.at_s for look in looks]
    with _figure(into, 6, 1, (12, 13), True) as axes:
        axes[0].plot(at, [look.users for look in looks], color="grey", drawstyle="steps-post", label="users")
        axes[1].plot(at, [look.answered_per_s for look in looks], label="answered per second")
        axes[1].plot(at, [look.failed_per_s for look in looks], color="tab:red", label="failed per second")
        for share, label in ((0.5, "p50"), (0.95, "p95"), (0.99, "p99")):
            _draw(axes[2], [(k.at_s, percentile(k.latencies, share)) for k in looks], "-", label=label)
        axes[2].set(ylabel="latency [ms]")
        _logarithmic(axes[2])
        _series(axes[3], looks, "queue_rows", "rows in the queue")
        _series(axes[3], looks, "in_flight", "requests in flight")
        _series(axes[4], looks, "rows_per_batch", "rows per batch")
        _series(axes[5], looks, "cores", "CPU of the server [cores]")
        locust = [(look.at_s, look.locust_percent / 100) for look in looks]
        _draw(axes[5], locust, ":", color="grey", label="CPU of locust [cores]")
        axes[5].set(xlabel="seconds")
        for each in (*axes[:2], *axes[3:]):
            each.set_ylim(0, None)
    return into.getvalue()


def _series(axes: Any, looks: Sequence[Look], key: str, label: str) -> None:
    _draw(axes, [(look.at_s, getattr(look, key)) for look in looks], "-", label=label)


def _page(summary: Mapping[str, Any], drawn: Mapping[str, bytes]) -> str:
    total = summary["entries"][-1]
    bad = total["failures"] > 0
    verdict = (
        f"{total['failures']} of {total['requests']} requests failed"
        if bad
        else f"all {total['requests']} requests were answered as expected"
    )
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><title>Load test</title>",
        f"<style>{_STYLE}</style><h1>Load test</h1>",
        f"<p class={'bad' if bad else 'good'}><b>{html.escape(verdict)}.</b>",
        f"<a href={LOCUST}>Locust's own report</a>,",
        f"<a href={SUMMARY}>figures</a>, <a href={LOOKS}>each second</a>.</p>",
        "<h2>Requests</h2>" + _table(summary["entries"]),
    ]
    if summary["errors"]:
        parts.append("<h2 class=bad>What went wrong</h2>" + _table(summary["errors"]))
    for title, png in drawn.items():
        data = base64.b64encode(png).decode()
        parts.append(f'<h2>{title}</h2><img alt="{title}" src="data:image/png;base64,{data}">')
    if not drawn:
        parts.append("<p>No pictures: matplotlib is not installed (extra <code>bench</code>).</p>")
    if summary["by_users"]:
        parts.append("<h2>By number of users</h2>" + _table(summary["by_users"]))
    chosen = [{"option": name, "value": value} for name, value in summary["options"].items()]
    parts.append("<h2>What was chosen</h2>" + _table(chosen))
    return "\n".join(parts) + "</html>\n"


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    head = "".join(f"<th>{html.escape(key.replace('_', ' '))}</th>" for key in rows[0])
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(_text(row[key]))}</td>" for key in rows[0]) + "</tr>" for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def _text(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
