"""The embedded server as a real child process: it starts, comes back, and leaves nothing behind."""

import asyncio
import os
import signal
import stat
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff

import hub.valkey
from hub.valkey import EmbeddedValkey, ValkeyError, embedded_valkey, find_program

PATIENT = Retry(ConstantBackoff(0.02), retries=250)

PARENT = """
import asyncio, sys
from pathlib import Path
from hub.valkey import embedded_valkey

async def main():
    async with embedded_valkey(Path(sys.argv[1])) as server:
        print(server.pid, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


async def ping(server: EmbeddedValkey) -> bool:
    async with redis.asyncio.from_url(server.url) as client:
        return bool(await client.ping())


async def until(true: Callable[[], bool], within_s: float = 10.0) -> None:
    async with asyncio.timeout(within_s):
        while not true():
            await asyncio.sleep(0.01)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # Where nobody reaps orphans, a dead process stays as a zombie.
    state = Path(f"/proc/{pid}/stat")
    return not state.exists() or state.read_text().rpartition(")")[2].split()[0] != "Z"


@asynccontextmanager
async def parent_of_a_server(data_dir: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, int]]:
    """A process of its own that runs a server, and the server's pid."""
    parent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PARENT, str(data_dir)), stdout=asyncio.subprocess.PIPE, start_new_session=True
    )
    try:
        assert parent.stdout is not None
        yield parent, int(await asyncio.wait_for(parent.stdout.readline(), 20))
    finally:
        if parent.returncode is None:
            parent.kill()
        await parent.wait()


async def test_it_answers_on_a_socket_that_is_private_and_on_no_port(tmp_path: Path) -> None:
    async with embedded_valkey(tmp_path / "data") as server:
        assert await ping(server)
        socket = tmp_path / "data" / "valkey.sock"
        assert server.url == f"unix://{socket}?db=0"
        assert stat.S_IMODE(socket.stat().st_mode) == 0o700
        async with redis.asyncio.from_url(server.url, decode_responses=True) as client:
            config = await client.config_get("port", "save", "appendonly", "maxmemory-policy")
        assert config == {"port": "0", "save": "", "appendonly": "no", "maxmemory-policy": "noeviction"}


async def test_the_end_of_the_block_leaves_no_process_and_no_socket(tmp_path: Path) -> None:
    async with embedded_valkey(tmp_path) as server:
        pid = server.pid
        assert pid is not None
        assert is_running(pid)
    assert not is_running(pid)
    assert server.pid is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["valkey.log"]


async def test_a_server_that_will_not_stop_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub.valkey, "STOPPED_WITHIN_S", 0.05)
    async with embedded_valkey(tmp_path) as server:
        pid = server.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
    assert not is_running(pid)
    assert not (tmp_path / "valkey.sock").exists()


async def test_a_killed_server_comes_back_at_the_same_url_and_empty(tmp_path: Path) -> None:
    async with embedded_valkey(tmp_path) as server:
        for _ in range(2):
            pid = server.pid
            assert pid is not None
            async with redis.asyncio.from_url(server.url) as client:
                await client.set("key", "value")
            os.kill(pid, signal.SIGKILL)
            async with redis.asyncio.from_url(server.url, retry=PATIENT) as client:
                assert await client.get("key") is None
            assert server.pid not in (None, pid)


async def test_leaving_the_block_while_it_comes_back_leaves_no_process(tmp_path: Path) -> None:
    async with embedded_valkey(tmp_path) as server:
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        await until(lambda: server.pid is None)
        await until(lambda: server.pid is not None)
        restarted = server.pid
    assert restarted is not None
    assert not is_running(restarted)


async def test_a_path_too_long_for_a_socket_goes_elsewhere_and_is_removed(tmp_path: Path) -> None:
    data_dir = tmp_path / ("long-" * 20) / "data"
    async with embedded_valkey(data_dir) as server:
        assert await ping(server)
        socket = Path(server.url.removeprefix("unix://").removesuffix("?db=0"))
        assert len(os.fsencode(socket)) <= 107
        assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o700
    assert not socket.parent.exists()
    assert (data_dir / "valkey.log").exists()


async def test_a_path_with_spaces_and_signs_is_no_obstacle(tmp_path: Path) -> None:
    async with embedded_valkey(tmp_path / "Pond 7? #1 'é'") as server:
        assert await ping(server)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
async def test_it_does_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    async with parent_of_a_server(tmp_path) as (parent, pid):
        assert is_running(pid)
        parent.kill()
        await parent.wait()
        await until(lambda: not is_running(pid))


async def test_the_terminals_interrupt_does_not_reach_it(tmp_path: Path) -> None:
    async with embedded_valkey(tmp_path) as server:
        assert server.pid is not None
        assert os.getsid(server.pid) == server.pid != os.getsid(0)


async def test_a_server_left_behind_is_shut_down_at_the_next_start(tmp_path: Path) -> None:
    socket = tmp_path / "valkey.sock"
    orphan = await asyncio.create_subprocess_exec(
        *(str(find_program()), "--port", "0", "--unixsocket", str(socket), "--save", ""),
        stdout=asyncio.subprocess.DEVNULL,
    )
    await until(socket.exists)
    async with embedded_valkey(tmp_path) as server:
        await asyncio.wait_for(orphan.wait(), 5)
        assert await ping(server)


async def test_a_server_that_dies_at_once_is_told_with_its_own_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "broken-server"
    program.write_text("#!/bin/sh\necho cannot allocate a pond >&2; exit 3\n")
    program.chmod(0o755)
    monkeypatch.setattr(hub.valkey, "find_program", lambda: program)
    with pytest.raises(ValkeyError, match="cannot allocate a pond"):
        async with embedded_valkey(tmp_path / "data"):
            pass


async def test_a_server_that_never_answers_is_given_up_and_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "mute-server"
    program.write_text("#!/bin/sh\necho $$ thinking; exec sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setattr(hub.valkey, "find_program", lambda: program)
    monkeypatch.setattr(hub.valkey, "READY_WITHIN_S", 0.5)
    with pytest.raises(ValkeyError, match=r"did not answer within 0\.5 s:\n[0-9]+ thinking") as raised:
        async with embedded_valkey(tmp_path / "data"):
            pass
    assert not is_running(int(str(raised.value).splitlines()[1].split()[0]))


def test_a_server_on_the_path_serves_where_the_package_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub.valkey, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValkeyError, match=r"Install one .* redis\.url"):
        find_program()
    for name in ("redis-server", "valkey-server"):
        (tmp_path / name).write_text("")
        (tmp_path / name).chmod(0o755)
        assert find_program() == tmp_path / name


async def test_the_systems_redis_server_serves_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, needs_program: Callable[[str], str]
) -> None:
    program = Path(needs_program("redis-server"))
    monkeypatch.setattr(hub.valkey, "find_program", lambda: program)
    async with embedded_valkey(tmp_path) as server:
        assert await ping(server)
