"""What stands in the log: enough to find a fault, and nobody's secret."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import sys
import structlog
from hub import logs

logs.configure("info", sys.argv[1])


def log_in(password):
    raise OSError("the database is away")


try:
    log_in("not-for-the-" + "log")
except OSError:
    structlog.get_logger().exception("nobody can be authenticated")
"""


@pytest.mark.parametrize("form", ["console", "json"])
def test_a_traceback_names_the_fault_and_shows_no_local_variable(form: str) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM, form], capture_output=True, text=True, check=True, timeout=30)
    assert "the database is away" in done.stderr
    assert "log_in" in done.stderr
    assert "not-for-the-log" not in done.stderr


LOGS_AND_GOES_ON = """
import sys
import structlog
from hub import logs

logs.configure("info", sys.argv[1])
structlog.get_logger().warning("nobody reads this")
structlog.get_logger().info("x" * 100_000)
print("went on")
"""


@pytest.mark.parametrize("form", ["console", "json"])
def test_a_line_that_cannot_be_written_stops_nobody(form: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)  # as of a program that the log was sent to and that is gone
    try:
        done = subprocess.run(
            [sys.executable, "-c", LOGS_AND_GOES_ON, form],
            stdout=subprocess.PIPE,
            stderr=writer,
            text=True,
            check=True,
            timeout=30,
        )
    finally:
        os.close(writer)
    assert done.stdout == "went on\n"
