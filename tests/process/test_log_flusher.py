from __future__ import annotations

import logging
import os

import pytest
import trio

from trioserve.process.log_flusher import keep_logs_flushed
from trioserve.telemetry.logs import WholeRecordHandler, tell_of_waiting_logs

LONG = "x" * 300_000  # more than a pipe takes at once


@pytest.fixture
def pipe(tmp_path):
    """A logger that writes to a pipe, and the pipe's other end."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    handler = WholeRecordHandler(path)
    logger = logging.getLogger("test_log_flusher")
    logger.propagate = False
    logger.addHandler(handler)
    yield logger, reading
    logger.removeHandler(handler)
    os.close(reading)
    handler.close()


async def read(fd, count):
    data = b""
    with trio.fail_after(10):
        while len(data) < count:
            await trio.lowlevel.wait_readable(fd)
            data += os.read(fd, 65536)
    return data


@pytest.mark.parametrize("in_a_thread", [False, True])
async def test_a_long_record_arrives_although_nothing_else_is_logged(pipe, nursery, in_a_thread):
    logger, reading = pipe
    nursery.start_soon(keep_logs_flushed)
    await trio.testing.wait_all_tasks_blocked()
    if in_a_thread:
        await trio.to_thread.run_sync(logger.error, LONG)
    else:
        logger.error(LONG)
    assert await read(reading, len(LONG) + 1) == LONG.encode() + b"\n"


async def test_what_waits_already_arrives(pipe, nursery):
    logger, reading = pipe
    logger.error(LONG)
    nursery.start_soon(keep_logs_flushed)
    assert await read(reading, len(LONG) + 1) == LONG.encode() + b"\n"


async def test_nothing_is_done_while_nothing_waits(nursery):
    nursery.start_soon(keep_logs_flushed)
    await trio.testing.wait_all_tasks_blocked()
    statistics = trio.lowlevel.current_statistics()
    assert statistics.seconds_to_next_deadline == float("inf")


async def test_a_record_after_the_end_of_the_task_waits_for_whoever_flushes(pipe):
    logger, reading = pipe
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep_logs_flushed)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    logger.error(LONG)
    assert len(await read(reading, 1)) < len(LONG)


def test_only_what_waits_is_told_of(pipe):
    logger, reading = pipe
    told = []
    with tell_of_waiting_logs(lambda: told.append(True)):
        logger.error("short")
        assert told == []
        logger.error(LONG)
        logger.error("behind it")
        assert told == [True]
    assert os.read(reading, 6) == b"short\n"
