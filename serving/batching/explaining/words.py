"""How figures of the batcher are written in sentences. Pure."""


def ms(value: float) -> str:
    """`0.02 ms`, `1.4 ms`, `35 ms`, `1.2 s`."""
    if value >= 1000:
        return f"{value / 1000:.1f} s"
    return f"{value:.0f} ms" if value >= 10 else f"{value:.1f} ms" if value >= 1 else f"{value:.2f} ms"


def duration(seconds: float) -> str:
    """`0.4 s`, `58 s`, `12 min`, `3 days`."""
    for unit, size in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 1 else f"{seconds:.1f} s"


def percent(share: float) -> str:
    """Of a share from 0 to 1."""
    value = 100 * share
    return f"{value:.0f} %" if value >= 1 or value == 0 else "less than 1 %"


def number(value: float) -> str:
    """`0.25`, `1.3`, `8`, `64`, `12,500`."""
    return f"{value:,.0f}" if value >= 9.95 else f"{value:.2g}"


def count(value: int, noun: str) -> str:
    """`1 run`, `2 runs`."""
    return f"{value:,} {noun}{'' if value == 1 else 's'}"
