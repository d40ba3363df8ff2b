"""A hundredth of a year of data: every list and every chart of it is there at once, on both databases."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from statistics import median

import pytest

from benchmarks.pages.year import MUST_MS, SITE, call_all, paths
from hub.protocol.times import utc_now
from tests.conftest import Callable
from tests.end_to_end.conftest import running_farm
from tests.end_to_end.farm import Farm
from tests.end_to_end.hub_process import feeder_hub
from tests.end_to_end.postgres import postgres_server

TIMES = 5


@pytest.fixture(params=["sqlite", "postgresql"])
def farm(request: pytest.FixtureRequest, tmp_path: Path, needs_program: Callable[[str], str]) -> Iterator[Farm]:
    if request.param == "sqlite":
        yield from _filled(tmp_path, None)
        return
    needs_program("postgres")
    with postgres_server(tmp_path) as server:
        yield from _filled(tmp_path, server.url)


def _filled(directory: Path, url: str | None) -> Iterator[Farm]:
    tomorrow = str(utc_now().date() + timedelta(days=1))
    size = ("--sites", "10", "--feeders", "200", "--days", "37", "--until", tomorrow)
    where = () if url is None else ("--database-url", url)
    made = feeder_hub("demo-data", *size, *where, "--data-dir", directory / "data")
    assert made.returncode == 0, made.stderr
    assert "177,600 events" in made.stdout
    again = feeder_hub("demo-data", *where, "--data-dir", directory / "data")
    assert (again.returncode, "already" in again.stderr) == (1, True)
    settings = {} if url is None else {"database__url": url}
    with running_farm(directory, **settings) as farm:
        yield farm


@pytest.mark.timeout(180)
def test_every_list_and_chart_of_a_hundredth_of_a_year_takes_less_than_it_must(farm: Farm) -> None:
    called = call_all(farm.api, TIMES)
    assert [one.path for one in called] == paths()
    late = [one for one in called if one.median_ms >= MUST_MS]
    if late:  # other work may have been in the way: what is slow of itself is slow again
        again = [median(one.median_ms for one in call_all(farm.api, TIMES) if one.path == slow.path) for slow in late]
        assert max(again) < MUST_MS, late
    assert all(
        one.answer_bytes < 200_000
        for one in called
        if "/daily" in one.path or ("/events?" not in one.path and SITE not in one.path and "limit=500" not in one.path)
    )
