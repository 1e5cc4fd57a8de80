"""The schema: strict validation of constructors, and error messages that say what is allowed."""

from typing import Annotated, Literal

import pytest
from pydantic import Field, ValidationError

from digitlab.config import schema
from digitlab.config.schema import Fraction, NonNegativeInt, PositiveFloat, PositiveInt, Rate
from digitlab.core.errors import ConfigError


class Layer:
    @schema.checked
    def __init__(self, *, units: PositiveInt, rate: Rate = 0.0, bias: bool = True) -> None:
        self.units, self.rate, self.bias = units, rate, bias


@schema.settings
class Pair:
    low: float
    high: float = 1.0
    kind: Literal["open", "closed"] = "open"

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ConfigError("low", self.low, "must be at most high")


def validation_error(cls, **given):
    with pytest.raises(ValidationError) as caught:
        cls(**given)
    return schema.refusal(caught.value, of=cls, given=given)


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (Rate, "a number in [0, 1)"),
        (Fraction, "a number in [0, 1]"),
        (PositiveInt, "a whole number of 1 or more"),
        (PositiveFloat | None, "a number above 0, or null"),
        (NonNegativeInt | Fraction, "a whole number of 0 or more, or a number in [0, 1]"),
        (Literal[32, "32", "bf16"], "32 or bf16"),
        (Annotated[list[PositiveInt], Field(min_length=1)], "a list of 1 or more, each a whole number of 1 or more"),
        (Annotated[list[Rate], Field(min_length=2, max_length=2)], "a list of 2, each a number in [0, 1)"),
        (Annotated[float, Field(lt=0)], "a number below 0"),
        (Annotated[int, Field(le=9)], "a whole number of 9 or less"),
        (bool, "true or false"),
        (Layer, "a Layer"),
    ],
)
def test_an_annotation_is_described_in_words(annotation, words):
    assert schema.describe(annotation) == words


@pytest.mark.parametrize("units", ["3", 3.0, True, 0, None, [3], float("nan")])
def test_a_count_must_be_a_whole_number(units):
    error = validation_error(Layer, units=units)
    hints = {"3": ", and this is text: a number is written without quotes", 3.0: ": write 3"}
    hint = hints.get(units, "") if isinstance(units, str | float) else ""
    assert (error.key, error.allowed) == ("units", f"must be a whole number of 1 or more{hint}")
    assert error.value is units


def test_a_whole_number_is_a_number():
    assert Layer(units=3, rate=0).rate == 0


@pytest.mark.parametrize("low", [float("nan"), float("inf")])
def test_nan_and_inf_are_rejected(low):
    assert validation_error(Pair, low=low).allowed == "must be a number, and finite"


def test_a_missing_setting_is_named():
    assert str(validation_error(Pair, high=2.0)) == "low=null: must be given"


def test_an_unknown_setting_is_reported_with_the_most_similar_one():
    assert (
        str(validation_error(Pair, low=0.0, hihg=2.0))
        == "hihg=2.0: no such key (did you mean `high`?); there are low, high, kind"
    )


def test_an_unknown_value_is_reported_with_the_most_similar_one():
    assert str(validation_error(Pair, low=0.0, kind="opn")) == "kind=opn: must be open or closed (did you mean `open`?)"


def test_a_check_across_settings_keeps_its_own_message():
    assert str(validation_error(Pair, low=2.0)) == "low=2.0: must be at most high"


def test_settings_are_immutable():
    with pytest.raises(AttributeError):
        Pair(low=0.0).low = 0.5


@pytest.mark.parametrize(
    ("value", "typed"),
    [
        (None, "null"),
        (True, "true"),
        ([64, None, ["a"]], "[64,null,[a]]"),
        ({"lr": 1, "on": False}, "{lr:1,on:false}"),
        ("two\nlines", "two lines"),
    ],
)
def test_a_value_is_shown_in_one_line_as_it_is_typed(value, typed):
    assert schema.show(value) == typed


def test_an_error_of_a_component_gets_the_key_it_has_in_the_configuration():
    error = ConfigError("dropout", 1.5, "must be less").under("model")
    assert (error.key, str(error)) == ("model.dropout", "model.dropout=1.5: must be less")
