"""A trainer's settings as text."""

from dataclasses import dataclass
from typing import Literal

import pytest

from trainers.contract import TrainingError
from trainers.settings import changed, described, pairs


@dataclass(frozen=True)
class Settings:
    rate: float = 0.1
    units: int = 8
    shift: bool = False
    text: str = ""
    unit: Literal["relu", "tanh"] = "relu"


def test_text_becomes_what_the_setting_is() -> None:
    values = pairs(["rate=1e-3", "units=1e2", "shift=Yes", "text=a=b", "unit=tanh", "rate=2"])
    assert changed(Settings(), values) == Settings(2.0, 100, True, "a=b", "tanh")


def test_values_are_taken_too() -> None:
    settings = changed(Settings(), {"rate": 3, "units": 4.0, "shift": True})
    assert described(settings) == {"rate": 3.0, "units": 4, "shift": True, "text": "", "unit": "relu"}
    assert type(settings.rate) is float and type(settings.units) is int


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("unts=1", "there is no setting 'unts': did you mean 'units'?"),
        ("x=1", "there is no setting 'x': there are rate, units, shift, text, unit"),
        ("rate=fast", "setting 'rate': expected a number, got 'fast'"),
        ("rate=nan", "setting 'rate': expected a number, got 'nan'"),
        ("units=1.5", "setting 'units': expected a whole number, got '1.5'"),
        ("units=-1", "setting 'units': expected 0 or more, got -1"),
        ("rate=-0.1", "setting 'rate': expected 0 or more, got -0.1"),
        ("units=inf", "setting 'units': expected a whole number, got 'inf'"),
        ("shift=maybe", "setting 'shift': expected yes or no, got 'maybe'"),
        ("unit=cosine", "setting 'unit': expected one of relu, tanh, got 'cosine'"),
        ("rate", "'rate': expected key=value"),
        ("=1", "'=1': expected key=value"),
    ],
)
def test_what_cannot_be_read_is_named(text: str, problem: str) -> None:
    with pytest.raises(TrainingError) as caught:
        changed(Settings(), pairs([text]))
    assert str(caught.value) == problem
