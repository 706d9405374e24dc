"""The page of `serving explain`, as it looks in a terminal."""

from typing import Any

from rich.console import Console

from serving.cli.explain import page


def told(**more: Any) -> dict[str, Any]:
    nothing: dict[str, Any] = {"runs": 0, "sizes": {}}
    plain: dict[str, Any] = {"model": "digits", "version": "3", "sentences": ["No request has come so far."]}
    plain |= {"advice": [], "recent": nothing, "total": nothing, "estimated_run_ms": {}}
    return {**plain, **more}


def shown(value: dict[str, Any], width: int = 60) -> list[str]:
    console = Console(width=width, highlight=False, markup=False)
    with console.capture() as caught:
        console.print(page(value))
    lines = caught.get().splitlines()
    assert all(len(line) <= width for line in lines)
    return [line.rstrip() for line in lines]


def test_nothing_yet() -> None:
    assert shown(told()) == ["digits/3", "  No request has come so far."]


def test_sentences_advice_and_bars() -> None:
    figures = {"runs": 30, "sizes": {"1": 10, "2": 20, "64": 5}}
    value = told(
        sentences=["One. " * 20, "Two."],
        advice=["Set it to 0 [really]."],
        recent=figures,
        estimated_run_ms={"1": 0.5, "2": 0.55, "64": 12.0},
    )
    lines = shown(value)
    assert lines[0] == "digits/3"
    assert lines[1].startswith("  One. One.") and lines[2].startswith("  One.")  # broken where the terminal ends
    assert lines[lines.index("advice") + 1] == "  Set it to 0 [really]."
    bars = lines[lines.index("runs by rows") + 1 :]
    assert bars[:3] == [
        "      1  ━━━━━━━━━━━━              10",
        "      2  ━━━━━━━━━━━━━━━━━━━━━━━━  20",
        "  33-64  ━━━━━━                     5",
    ]
    costs = lines[lines.index("what a run takes, by rows") + 1 :]
    assert [line.split()[0] for line in costs] == ["1", "2", "64"]
    assert costs[0].split() == ["1", "━", "0.5", "ms"]


def test_all_time_is_shown_if_nothing_is_recent() -> None:
    lines = shown(told(total={"runs": 3, "sizes": {"1": 3}}))
    assert lines[-1].split()[-1] == "3"
