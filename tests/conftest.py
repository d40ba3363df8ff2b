"""For all tests: programs from the system, and a CI in which nothing may be skipped."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

# `pytest --hypothesis-profile=long`: what Hypothesis makes up, for hours instead of seconds.
settings.register_profile("long", max_examples=20_000, deadline=None)

IN_CI = os.environ.get("CI", "").lower() in ("true", "1")


@pytest.fixture(scope="session")
def needs_program() -> Callable[[str], str]:
    """`needs_program("mosquitto")` is the program's path; without it the test is skipped, loudly."""

    def find(program: str) -> str:
        # Debian keeps servers in /usr/sbin, which is not on everybody's path, and PostgreSQL's by version.
        by_version = sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")), reverse=True)
        places = [os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin", *by_version]
        path = shutil.which(program, path=os.pathsep.join(places))
        if path is None:
            pytest.skip(f"NOT TESTED: {program} is not installed; `make programs` installs it or says how")
        return path

    return find


def _skipped(config: pytest.Config) -> int:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    return len(reporter.stats.get("skipped", [])) if reporter else 0


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if IN_CI and _skipped(session.config) and exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if skipped := _skipped(config):
        if IN_CI:
            terminalreporter.write_line(f"FAILED: {skipped} skipped, and in CI every test must run", red=True)
        else:
            terminalreporter.write_line(f"{skipped} skipped: NOT everything was tested, see above", yellow=True)
