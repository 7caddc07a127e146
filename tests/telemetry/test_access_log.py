from __future__ import annotations

import contextlib
import logging
import os
import resource
import signal
from types import SimpleNamespace

import pytest

from trioserve.telemetry import access_log, line_writer
from trioserve.telemetry.access_log import AccessLog
from trioserve.telemetry.line_writer import LineWriter


def exchange(target: bytes = b"/") -> SimpleNamespace:
    return SimpleNamespace(request=SimpleNamespace(target=target))


def open_log(sink) -> AccessLog:
    return AccessLog(sink, "%(Uq)s")


@pytest.fixture
def pipe():
    reader, writer = os.pipe()
    yield reader, writer
    for fd in (reader, writer):
        with contextlib.suppress(OSError):  # a test may have closed it
            os.close(fd)


def read_available(fd: int) -> bytes:
    os.set_blocking(fd, False)
    data = b""
    try:
        while piece := os.read(fd, 65536):
            data += piece
    except BlockingIOError:
        pass
    return data


def test_lines_are_written_by_flush_in_order(tmp_path):
    path = tmp_path / "access.log"
    log = open_log(path)
    log.add(exchange(b"/1"))
    log.add(exchange(b"/2"))
    assert log.pending
    assert path.read_bytes() == b""
    log.flush()
    assert not log.pending
    assert path.read_bytes() == b"/1\n/2\n"
    log.close()


def test_an_existing_file_is_appended_to(tmp_path):
    path = tmp_path / "access.log"
    path.write_text("before\n")
    first, second = open_log(path), open_log(str(path))
    first.add(exchange(b"/first"))
    second.add(exchange(b"/second"))
    second.close()
    first.close()
    assert path.read_text() == "before\n/second\n/first\n"


def test_a_full_batch_is_written_without_flush(tmp_path):
    path = tmp_path / "access.log"
    log = open_log(path)
    for _ in range(access_log.MAX_LINES):
        log.add(exchange())
    assert path.read_bytes() == b"/\n" * access_log.MAX_LINES
    assert not log.pending
    log.add(exchange(b"/" * access_log.MAX_CHARACTERS))
    assert not log.pending
    assert path.stat().st_size == 2 * access_log.MAX_LINES + access_log.MAX_CHARACTERS + 1
    log.close()


def test_the_sink_is_checked_at_once(tmp_path):
    with pytest.raises(OSError):
        open_log(tmp_path / "missing" / "access.log")


def test_standard_output_is_a_sink_and_stays_open(capfd):
    log = open_log("-")
    log.add(exchange(b"/out"))
    log.close()
    os.write(1, b"still open\n")
    assert capfd.readouterr().out == "/out\nstill open\n"


def test_reopen_after_a_rename_writes_to_the_new_file(tmp_path):
    path, rotated = tmp_path / "access.log", tmp_path / "access.log.1"
    log = open_log(path)
    log.add(exchange(b"/old"))
    path.rename(rotated)
    log.reopen()
    log.add(exchange(b"/new"))
    log.close()
    assert rotated.read_bytes() == b"/old\n"
    assert path.read_bytes() == b"/new\n"


def test_a_failed_reopen_keeps_the_old_file(tmp_path, caplog):
    folder = tmp_path / "logs"
    folder.mkdir()
    log = open_log(folder / "access.log")
    folder.rename(tmp_path / "moved")
    log.reopen()
    log.add(exchange(b"/kept"))
    log.close()
    assert (tmp_path / "moved" / "access.log").read_bytes() == b"/kept\n"
    assert "cannot be reopened" in caplog.text


def test_reopen_leaves_a_descriptor_alone(pipe):
    reader, writer = pipe
    log = open_log(writer)
    log.reopen()
    log.add(exchange(b"/x"))
    log.close()
    assert read_available(reader) == b"/x\n"


def test_closing_twice_and_writing_after_it_is_harmless(tmp_path):
    log = open_log(tmp_path / "access.log")
    log.close()
    log.add(exchange())
    log.flush()
    log.close()
    assert log.lost == 1
    assert (tmp_path / "access.log").read_bytes() == b""


@pytest.mark.parametrize("blocking", [True, False])
def test_a_pipe_that_nobody_reads_never_blocks_and_stays_bounded(pipe, blocking, caplog):
    reader, writer = pipe
    os.set_blocking(writer, blocking)
    log = LineWriter(writer)
    batch = (b"x" * 99 + b"\n") * 500
    signal.alarm(20)  # a write that blocks is a failure, not a hanging test run
    try:
        for _ in range(60):
            log.write(batch)
        assert len(log._backlog) <= line_writer.BACKLOG_LIMIT
        assert log.lost > 0
        taken = read_available(reader)
        while log.waiting:
            log.write(b"")
            taken += read_available(reader)
    finally:
        signal.alarm(0)
    lines = taken.splitlines()
    assert {len(line) for line in lines} == {99}
    assert taken.endswith(b"\n")
    assert len(lines) + log.lost == 60 * 500
    assert len([record for record in caplog.records if "is not read" in record.getMessage()]) == 1


def test_what_a_slow_reader_has_left_is_written_first(pipe):
    reader, writer = pipe
    log = LineWriter(writer)
    numbered = b"".join(b"%06d\n" % number for number in range(20000))
    log.write(numbered)
    assert log.waiting
    log.write(b"last\n")
    taken = b""
    while log.waiting:
        taken += read_available(reader)
        log.write(b"")
    assert taken + read_available(reader) == numbered + b"last\n"
    assert log.lost == 0


def test_pieces_for_a_pipe_end_at_line_ends(pipe):
    reader, writer = pipe
    log = LineWriter(writer)
    log.write((b"y" * 999 + b"\n") * 100)
    os.set_blocking(reader, False)
    assert read_available(reader).endswith(b"\n")


def test_a_line_longer_than_an_atomic_write_still_arrives(pipe):
    reader, writer = pipe
    log = LineWriter(writer)
    long_line = b"z" * 10000 + b"\n"
    log.write(long_line + b"next\n")
    assert read_available(reader) == long_line + b"next\n"


def test_a_closed_pipe_is_counted_and_reported_once(pipe, caplog):
    reader, writer = pipe
    os.close(reader)
    log = open_log(writer)
    for _ in range(3):
        log.add(exchange())
        log.add(exchange())
        log.flush()
    assert not log.pending
    assert log.lost == 6
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    log.close()
    assert "6 lines were lost" in caplog.text


@pytest.fixture
def small_file_limit():
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def set_limit(size: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size if size >= 0 else soft, hard))

    yield set_limit
    set_limit(-1)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_drops_lines_and_a_torn_line_is_ended(tmp_path, small_file_limit):
    path = tmp_path / "access.log"
    log = LineWriter(path)
    small_file_limit(10)  # the nearest thing to a full disk: a short write, then an error
    log.write(b"12345\n67890\nabcde\n")
    lost, torn = log.lost, path.read_bytes()
    small_file_limit(-1)
    log.write(b"after\n")
    log.close()
    assert lost == 2
    assert torn == b"12345\n6789"
    assert path.read_bytes() == b"12345\n6789\nafter\n"
