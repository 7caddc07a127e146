"""The fields of every response, the flushing of the access log, and the settings of connections."""

from __future__ import annotations

import re
import time
from email.utils import parsedate_to_datetime
from math import inf
from types import SimpleNamespace

import pytest
import trio

from trioserve.config import Config, LimitSettings, TimeoutSettings, WebSocketSettings
from trioserve.protocols.websocket.events import WebSocketLimits
from trioserve.server import date
from trioserve.server.context import ConnectionSettings, SessionSettings, Timeouts
from trioserve.server.date import ServerFields
from trioserve.server.log_flusher import FLUSH_DELAY, RETRY_DELAY, AccessLogFlusher


class TestServerFields:
    def test_all_of_them(self, monkeypatch):
        monkeypatch.setattr(date.time, "time", lambda: 784111777.5)
        fields = ServerFields(b"name", True, [(b"x-a", b"1"), (b"x-b", b"2")]).current()
        assert fields.date == b"date: Sun, 06 Nov 1994 08:49:37 GMT\r\n"
        assert fields.server == b"server: name\r\n"
        assert fields.extra == b"x-a: 1\r\nx-b: 2\r\n"

    def test_none(self):
        fields = ServerFields(None, False, []).current()
        assert (fields.date, fields.server, fields.extra) == (b"", b"", b"")

    def test_the_date_is_rendered_once_a_second(self, monkeypatch):
        now = 784111777.0
        monkeypatch.setattr(date.time, "time", lambda: now)
        fields = ServerFields(None, True, [])
        first = fields.current()
        now += 0.999
        assert fields.current() is first
        now += 0.001
        assert fields.current().date == b"date: Sun, 06 Nov 1994 08:49:38 GMT\r\n"

    def test_all_of_them_as_fields(self, monkeypatch):
        monkeypatch.setattr(date.time, "time", lambda: 784111777.5)
        fields = ServerFields(b"name", True, [(b"X-A", b"1"), (b"x-b", b" 2\t")]).current_fields()
        assert fields.date == ((b"date", b"Sun, 06 Nov 1994 08:49:37 GMT"),)
        assert fields.server == ((b"server", b"name"),)
        assert fields.extra == ((b"x-a", b"1"), (b"x-b", b"2"))
        assert fields.all == fields.date + fields.server + fields.extra

    def test_none_as_fields(self):
        assert ServerFields(None, False, []).current_fields().all == ()

    @pytest.mark.parametrize("name", [b"Connection", b"keep-alive", b"transfer-encoding", b"Upgrade"])
    def test_connection_specific_ones_are_lines_only(self, name):
        fields = ServerFields(None, False, [(name, b"x")])
        assert fields.current().extra == name + b": x\r\n"
        assert fields.current_fields().extra == ()

    @pytest.mark.parametrize("first", ["current", "current_fields"])
    def test_lines_and_fields_name_the_same_second(self, monkeypatch, first):
        now = 784111777.0
        monkeypatch.setattr(date.time, "time", lambda: now)
        fields = ServerFields(None, True, [])
        getattr(fields, first)()
        rendered = fields.current_fields()
        now += 0.999
        assert fields.current_fields() is rendered
        now += 0.001
        getattr(fields, first)()
        assert fields.current().date == b"date: Sun, 06 Nov 1994 08:49:38 GMT\r\n"
        assert fields.current_fields().date == ((b"date", b"Sun, 06 Nov 1994 08:49:38 GMT"),)

    def test_the_date_is_the_present(self):
        text = ServerFields(None, True, []).current().date
        value = re.fullmatch(rb"date: (.*)\r\n", text)[1].decode()
        assert abs(parsedate_to_datetime(value).timestamp() - time.time()) < 5


class Log:
    """A log whose reader can be made slow."""

    def __init__(self):
        self.pending = 0
        self.flushes = []
        self.blocked = False
        self.closed = False

    def add(self, exchange):
        self.pending += 1

    def flush(self):
        self.flushes.append((trio.current_time(), self.pending))
        if not self.blocked:
            self.pending = 0

    def close(self):
        self.closed = True


class TestAccessLogFlusher:
    @pytest.fixture
    async def log(self, nursery):
        log = Log()
        log.flusher = AccessLogFlusher(log)
        nursery.start_soon(log.flusher.run)
        await trio.sleep(1)
        return log

    async def test_lines_wait_for_each_other(self, log, autojump_clock):
        log.flusher.add(SimpleNamespace())
        log.flusher.add(SimpleNamespace())
        begin = trio.current_time()
        await trio.sleep(10)
        assert log.flushes == [(pytest.approx(begin + FLUSH_DELAY), 2)]

    async def test_again_and_again(self, log, autojump_clock):
        for _ in range(3):
            log.flusher.add(SimpleNamespace())
            await trio.sleep(1)
        assert [lines for _, lines in log.flushes] == [1, 1, 1]

    async def test_what_a_slow_reader_left_is_tried_again(self, log, autojump_clock):
        log.blocked = True
        log.flusher.add(SimpleNamespace())
        await trio.sleep(FLUSH_DELAY + RETRY_DELAY * 2.5)
        assert len(log.flushes) == 3
        log.blocked = False
        await trio.sleep(1)
        assert log.pending == 0
        assert len(log.flushes) == 4

    async def test_closed_at_the_end(self, autojump_clock):
        log = Log()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(AccessLogFlusher(log).run)
            await trio.sleep(1)
            nursery.cancel_scope.cancel()
        assert log.closed


class TestSettings:
    def test_zero_means_never_but_for_graces(self):
        names = {
            "keep_alive": 0.0,
            "head": 0.0,
            "body_stall": 0.0,
            "write_stall": 0.0,
            "request": 0.0,
            "graceful": 0.0,
            "lifespan_startup": 0.0,
            "lifespan_shutdown": 0.0,
        }
        graces = {"disconnect_grace": 0.0, "cleanup_grace": 0.0, "drain_delay": 0.0}
        timeouts = Timeouts.of(TimeoutSettings(**names, **graces))
        assert all(getattr(timeouts, name) == inf for name in names)
        assert all(getattr(timeouts, name) == 0 for name in graces)

    def test_durations_are_taken_over(self):
        assert Timeouts.of(TimeoutSettings(head=7)).head == 7

    @pytest.mark.parametrize(
        ("config", "refuses"),
        [
            (Config(), False),
            (Config(server_names=("A.example",)), True),
            (Config(limits=LimitSettings(requests=1)), True),
            (Config(limits=LimitSettings(body_size=1)), True),
            (Config(limits=LimitSettings(connections=1)), False),
        ],
    )
    def test_whether_requests_can_be_refused(self, config, refuses):
        settings = ConnectionSettings.of(config)
        assert settings.refuses_requests is refuses
        assert settings.server_names == frozenset(name.lower().encode() for name in config.server_names)

    def test_what_a_websocket_session_may_cost(self):
        defaults = ConnectionSettings.of(Config()).websocket
        assert defaults == SessionSettings(
            enabled=True,
            deflate=True,
            limits=WebSocketLimits(max_message_size=16 << 20, max_fragments=4096),
            queue=32,
            ping_interval=20.0,
            ping_timeout=20.0,
            close_timeout=10.0,
            idle_timeout=inf,
        )
        none = WebSocketSettings(
            ping_interval=0, ping_timeout=0, close_timeout=0, idle_timeout=5, deflate=False
        )
        settings = SessionSettings.of(none)
        assert (settings.ping_interval, settings.ping_timeout, settings.close_timeout) == (inf, inf, inf)
        assert (settings.idle_timeout, settings.deflate) == (5.0, False)
