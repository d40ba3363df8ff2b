"""When meals are due, on days with 23, 24 and 25 hours."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from device_sim.schedule import is_time_zone, next_meal_at
from hub.protocol.messages import FeederConfig, Window


def config(start: str, end: str, interval_s: int = 3600) -> FeederConfig:
    return FeederConfig(
        enabled=True,
        meal_g=100,
        interval_s=interval_s,
        window=Window(start=start, end=end),
        daily_limit_g=100_000,
        feed_rate_g_per_s=10,
        silo_low_g=0,
    )


def meals(of: FeederConfig, zone: str, first: datetime, hours: int) -> list[str]:
    """Local times of all meals from `first`, itself included, for so many hours."""
    found = []
    at = first - timedelta(microseconds=1)
    while (due := next_meal_at(of, zone, at)) is not None and due < first + timedelta(hours=hours):
        found.append(due.astimezone(ZoneInfo(zone)).strftime("%d %H:%M"))
        at = due
    return found


def local(zone: str, *when: int) -> datetime:
    return datetime(*when, tzinfo=ZoneInfo(zone)).astimezone(UTC)  # type: ignore[arg-type]  # year, month, day ...


def test_the_window_is_closed_at_its_end() -> None:
    day = datetime(2026, 1, 5, tzinfo=UTC)
    assert meals(config("06:00", "09:00"), "UTC", day, 24) == ["05 06:00", "05 07:00", "05 08:00"]


def test_a_window_may_cross_midnight() -> None:
    day = datetime(2026, 1, 5, 12, tzinfo=UTC)
    assert meals(config("22:00", "01:00"), "UTC", day, 24) == ["05 22:00", "05 23:00", "06 00:00"]


def test_a_window_that_is_open_all_day_feeds_round_the_clock() -> None:
    day = datetime(2026, 1, 5, tzinfo=UTC)
    assert len(meals(config("00:00", "24:00"), "UTC", day, 48)) == 48


def test_an_interval_longer_than_the_window_feeds_once_a_day() -> None:
    day = datetime(2026, 1, 5, tzinfo=UTC)
    assert meals(config("06:00", "07:00", 86_400), "UTC", day, 48) == ["05 06:00", "06 06:00"]


def test_a_disabled_schedule_has_no_meal() -> None:
    off = config("06:00", "07:00").model_copy(update={"enabled": False})
    assert next_meal_at(off, "UTC", datetime(2026, 1, 5, tzinfo=UTC)) is None


@pytest.mark.parametrize(
    ("zone", "day", "jumps_to"), [("Asia/Jerusalem", (2026, 3, 27), "03:00"), ("Europe/Oslo", (2026, 3, 29), "03:00")]
)
def test_a_window_whose_start_is_jumped_over_opens_at_the_first_moment_that_exists(
    zone: str, day: tuple[int, int, int], jumps_to: str
) -> None:
    found = meals(config("02:30", "05:00", 1800), zone, local(zone, *day), 12)
    assert [at[3:] for at in found] == [jumps_to, "03:30", "04:00", "04:30"]


@pytest.mark.parametrize(("zone", "day"), [("Asia/Jerusalem", (2026, 3, 27)), ("Europe/Oslo", (2026, 3, 29))])
def test_a_window_that_lies_whole_in_the_hour_that_does_not_exist_has_no_meal_that_day(
    zone: str, day: tuple[int, int, int]
) -> None:
    found = meals(config("02:10", "02:50", 600), zone, local(zone, *day), 36)
    assert [at[3:] for at in found] == ["02:10", "02:20", "02:30", "02:40"]
    assert all(at.startswith(f"{day[2] + 1:02}") for at in found)


@pytest.mark.parametrize(
    ("zone", "day", "twice"), [("Asia/Jerusalem", (2026, 10, 25), "01"), ("Europe/Oslo", (2026, 10, 25), "02")]
)
def test_in_the_hour_that_comes_twice_meals_go_by_elapsed_time(
    zone: str, day: tuple[int, int, int], twice: str
) -> None:
    found = [at[3:] for at in meals(config("00:00", "05:00", 1800), zone, local(zone, *day), 12)]
    assert len(found) == 12
    assert [at for at in found if at.startswith(twice)] == [f"{twice}:00", f"{twice}:30"] * 2


def test_unknown_time_zones_are_told_from_known_ones() -> None:
    assert is_time_zone("Asia/Jerusalem")
    assert not any(map(is_time_zone, ["Mars/Olympus", "", "../etc/passwd", "America"]))
