"""Bytes that no client should send; `python -m tests.broker.fuzz` goes on for longer."""

import pytest

from tests.broker.fuzz import fuzz


@pytest.mark.both_loops
async def test_no_bytes_break_stall_or_fatten_the_broker_or_keep_it_from_a_good_client(tmp_path):
    report = await fuzz(tmp_path, seed=1, rounds=6)
    assert report.admitted > 0
