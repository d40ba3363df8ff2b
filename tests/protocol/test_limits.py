"""Limits and tolerances: one table that drives the schema, and a PLC's 32 bits that fit within it."""

import json
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from hub.protocol.limits import LIMITS, equal_within_tolerance
from hub.protocol.messages import ARGUMENTS, Feed, FeederConfig, differences

CONFIG = FeederConfig.model_validate_json((Path(__file__).parent / "golden" / "config.json").read_text())
CONFIG_FIELDS = sorted(set(LIMITS) & set(FeederConfig.model_fields))


def as_plc_float(value: float) -> float:
    """The value as it comes back from 32 bits."""
    read: float = struct.unpack("<f", struct.pack("<f", value))[0]
    return read


def with_field(name: str, value: object) -> dict[str, object]:
    # The other fields give way, so that only this one's own range can be broken.
    room = {"daily_limit_g": LIMITS["daily_limit_g"].maximum, "interval_s": LIMITS["interval_s"].maximum, "meal_g": 1.0}
    return CONFIG.model_dump() | room | {name: value}


def test_every_number_of_a_config_and_of_a_dose_has_its_limit() -> None:
    numbers = {name for name, field in FeederConfig.model_fields.items() if field.annotation in (int, float)}
    assert numbers == set(CONFIG_FIELDS)
    assert set(LIMITS) == numbers | {"grams", "dose_pause_s"}
    for name, limit in LIMITS.items():
        assert limit.name == name
        assert limit.minimum < limit.maximum
        assert limit.tolerance >= 0
        assert limit.unit
        assert limit.meaning


@pytest.mark.parametrize("model", [FeederConfig, Feed])
def test_the_published_schema_has_the_tables_minimum_and_maximum(model: type[FeederConfig] | type[Feed]) -> None:
    properties = model.model_json_schema()["properties"]
    for name in set(LIMITS) & set(properties):
        assert properties[name]["minimum"] == LIMITS[name].minimum
        assert properties[name]["maximum"] == LIMITS[name].maximum
        assert LIMITS[name].unit in properties[name]["description"]


@pytest.mark.parametrize("name", CONFIG_FIELDS)
def test_both_ends_of_a_limit_are_allowed_and_what_lies_beyond_is_not(name: str) -> None:
    limit = LIMITS[name]
    whole = name == "interval_s"
    step = 1 if whole else 0.001
    for allowed in (limit.minimum, limit.maximum):
        FeederConfig.model_validate(with_field(name, int(allowed) if whole else allowed))
    for refused in (limit.minimum - step, limit.maximum + step):
        with pytest.raises(ValidationError) as error:
            FeederConfig.model_validate(with_field(name, int(refused) if whole else refused))
        assert error.value.errors()[0]["loc"] == (name,)


def test_a_dose_keeps_to_its_limit() -> None:
    limit = LIMITS["grams"]
    for allowed in (limit.minimum, limit.maximum):
        ARGUMENTS["feed"].model_validate({"grams": allowed})
    for refused in (0, limit.minimum - 0.001, limit.maximum + 0.001, -1):
        with pytest.raises(ValidationError):
            ARGUMENTS["feed"].model_validate({"grams": refused})


def test_a_meal_fits_into_the_daily_limit_and_into_its_interval() -> None:
    with pytest.raises(ValidationError, match="more than daily_limit_g"):
        FeederConfig.model_validate(CONFIG.model_dump() | {"meal_g": 4000.5})
    with pytest.raises(ValidationError, match="lasts longer than interval_s"):
        FeederConfig.model_validate(CONFIG.model_dump() | {"meal_g": 1000.0, "interval_s": 60})
    FeederConfig.model_validate(CONFIG.model_dump() | {"meal_g": 750.0, "interval_s": 60})


def test_a_config_does_not_differ_from_itself() -> None:
    assert differences(CONFIG, CONFIG) == []


@pytest.mark.parametrize("name", CONFIG_FIELDS)
def test_a_field_differs_beyond_its_tolerance_only(name: str) -> None:
    limit, value = LIMITS[name], getattr(CONFIG, name)
    if limit.tolerance:
        assert differences(CONFIG, CONFIG.model_copy(update={name: value + limit.tolerance / 2})) == []
        assert differences(CONFIG, CONFIG.model_copy(update={name: value - limit.tolerance / 2})) == []
    for off in (limit.tolerance * 2 or 1, -(limit.tolerance * 2 or 1)):
        assert differences(CONFIG, CONFIG.model_copy(update={name: value + off})) == [name]


def test_a_switch_and_a_window_must_be_the_same_and_all_differences_are_named() -> None:
    other = FeederConfig.model_validate(
        CONFIG.model_dump() | {"enabled": False, "window": {"start": "06:00", "end": "19:31"}, "meal_g": 251.0}
    )
    assert set(differences(CONFIG, other)) == {"enabled", "window", "meal_g"}


@given(st.sampled_from(CONFIG_FIELDS), st.data())
def test_a_value_kept_in_32_bits_is_within_tolerance_wherever_it_lies(name: str, data: st.DataObject) -> None:
    limit = LIMITS[name]
    value = data.draw(st.floats(limit.minimum, limit.maximum))
    if name == "interval_s":
        value = round(value)
    assert equal_within_tolerance(name, value, as_plc_float(value))


@st.composite
def configs(draw: st.DrawFn) -> FeederConfig:
    def number(name: str, low: float = 0, high: float = 1e9) -> float:
        return draw(st.floats(max(low, LIMITS[name].minimum), min(high, LIMITS[name].maximum)))

    interval_s = draw(st.integers(int(LIMITS["interval_s"].minimum), int(LIMITS["interval_s"].maximum)))
    rate = number("feed_rate_g_per_s")
    meal = number("meal_g", high=max(rate * interval_s, 1.0))
    return FeederConfig.model_validate(
        CONFIG.model_dump()
        | {
            "meal_g": meal,
            "interval_s": interval_s,
            "daily_limit_g": number("daily_limit_g", low=meal),
            "feed_rate_g_per_s": rate,
            "silo_low_g": number("silo_low_g"),
        }
    )


@given(configs())
def test_a_valid_config_read_back_from_32_bits_is_valid_and_the_same(config: FeederConfig) -> None:
    read = {
        name: as_plc_float(value) if isinstance(value, float) else value for name, value in config.model_dump().items()
    }
    read_back = FeederConfig.model_validate_json(json.dumps(read))
    assert differences(config, read_back) == []
