"""Deadlines of WebSocket sessions, on a clock that jumps: silence, stalls, idleness, graces."""

from __future__ import annotations

import contextlib
from math import inf

import pytest
import trio
import trio.testing
from hyperframe.frame import SettingsFrame, WindowUpdateFrame

from tests.server.session_server import PROTOCOLS, open_server
from trioserve.asgi.errors import ClientDisconnected
from trioserve.testing.raw_client import RawClient
from trioserve.testing.websocket_client import CLOSE, FIN, PING, PONG, close_payload, open_http2_session

ACCEPT = {"type": "websocket.accept"}
LIMIT = 5000
both = pytest.mark.parametrize("protocol", PROTOCOLS)


class Listener:
    """Receives until the end, and notes when that was."""

    def __init__(self):
        self.accepted, self.ended = trio.Event(), trio.Event()
        self.end = self.begun = self.lasted = None
        self.cancelled = False

    async def __call__(self, scope, receive, send):
        self.receive, self.send, self.control = receive, send, scope["extensions"]["trioserve"]
        await receive()
        await send(ACCEPT)
        self.begun = trio.current_time()
        self.accepted.set()
        try:
            await self.talk()
        except trio.Cancelled:
            self.cancelled = True
            raise
        finally:
            self.lasted = trio.current_time() - self.begun
            self.ended.set()

    async def talk(self):
        while (message := await self.receive())["type"] == "websocket.receive":
            pass
        self.end = (message["code"], message["reason"])


class Busy(Listener):
    """Looks at nothing for a while."""

    def __init__(self, seconds):
        super().__init__()
        self.seconds = seconds

    async def talk(self):
        await trio.sleep(self.seconds)
        await super().talk()


async def frames_until_end(client, opcode):
    """The times at which frames of a kind came; pings are not answered."""
    times = []
    while (frame := await client.next_frame()) is not None:
        if frame.opcode == opcode:
            times.append(trio.current_time())
    return times


class TestPings:
    @both
    @pytest.mark.parametrize("seconds", [0, 1000])
    async def test_a_client_that_vanishes(self, protocol, seconds, autojump_clock):
        """Whether its application waits for messages or not, it is told within both times, and then cancelled."""
        app = Busy(seconds)
        async with open_server(app, limit=LIMIT, ping_interval=20, ping_timeout=10) as served:
            begun = trio.current_time()
            client = await served.session(protocol)
            times = [at - begun for at in await frames_until_end(client, PING)]
            assert times == [pytest.approx(20, abs=0.1)]
            await app.ended.wait()
        assert app.lasted == pytest.approx(33 if seconds else 30, abs=0.2)
        assert (app.end, app.cancelled) == ((None, True) if seconds else ((1006, ""), False))
        assert served.server.stats().disconnects == 1

    @both
    async def test_short_times_are_kept_as_well(self, protocol, autojump_clock):
        app = Listener()
        async with open_server(app, limit=LIMIT, ping_interval=0.5, ping_timeout=0.25) as served:
            client = await served.session(protocol)
            assert len(await frames_until_end(client, PING)) == 1
            await app.ended.wait()
        assert app.lasted == pytest.approx(0.75, abs=0.1)

    @both
    @pytest.mark.parametrize(("interval", "timeout"), [(20, 20), (5, 60), (60, 5), (7, 0)])
    async def test_a_client_that_answers_is_asked_every_interval(
        self, protocol, interval, timeout, autojump_clock
    ):
        app = Listener()
        async with open_server(app, limit=LIMIT, ping_interval=interval, ping_timeout=timeout) as served:
            client = await served.session(protocol)
            begun = trio.current_time()
            for number in range(1, 10):
                frame = await client.next_frame()
                assert frame.opcode == PING
                assert trio.current_time() - begun == pytest.approx(number * interval, rel=0.05)
                await client.send_frame(FIN | PONG, frame.payload)
            await client.close()
            await app.ended.wait()
        assert app.end == (1000, "")

    @both
    async def test_no_pings(self, protocol, autojump_clock):
        app = Listener()
        async with open_server(app, limit=LIMIT, ping_interval=0) as served:
            client = await served.session(protocol)
            await trio.sleep(1000)
            await client.close()
            assert [frame.opcode for frame in client.frames] == [CLOSE]
            await app.ended.wait()

    @both
    async def test_no_limit_for_the_answer(self, protocol, autojump_clock):
        app = Listener()
        async with open_server(app, limit=LIMIT, ping_interval=20, ping_timeout=0) as served:
            client = await served.session(protocol)
            client.answer_pings = False
            await trio.sleep(1001)
            await client.close()
            assert [frame.opcode for frame in client.frames].count(PING) == 50
            await app.ended.wait()

    @both
    async def test_a_client_that_speaks_is_not_asked(self, protocol, autojump_clock):
        app = Listener()
        async with open_server(app, limit=LIMIT, ping_interval=20, ping_timeout=10) as served:
            client = await served.session(protocol)
            for _ in range(50):
                await trio.sleep(15)
                await client.send("x")
            await client.close()
            assert [frame.opcode for frame in client.frames] == [CLOSE]
            await app.ended.wait()

    @both
    async def test_a_client_that_speaks_but_never_answers_lives(self, protocol, autojump_clock):
        app = Listener()
        async with open_server(app, limit=LIMIT, ping_interval=10, ping_timeout=20) as served:
            client = await served.session(protocol)
            client.answer_pings = False
            for _ in range(50):
                await trio.sleep(18)
                await client.send("x")
            await client.close()
            assert PING in [frame.opcode for frame in client.frames]
            await app.ended.wait()
        assert app.end == (1000, "")

    @both
    async def test_a_client_whose_answer_we_do_not_read_is_not_blamed(self, protocol, autojump_clock):
        """Its pong lies behind messages for which there is no room."""
        app = Busy(500)
        async with open_server(app, limit=LIMIT, ping_interval=20, ping_timeout=10, queue=2) as served:
            client = await served.session(protocol)
            for _ in range(10):
                await client.send("x" * 1000)
            await trio.sleep(400)
            assert not app.ended.is_set()
            client.answer_pings = False
            await client.wait_end()
            await app.ended.wait()  # then nothing is in the way of an answer, and none comes
        assert app.end == (1006, "")
        assert 500 <= app.lasted <= 540

    @both
    async def test_a_stopped_reader_is_told_of_again(self, protocol, autojump_clock):
        """Once the application has looked at a large message, the client's vanishing is noticed as before."""
        app = Busy(5)
        async with open_server(app, limit=LIMIT, ping_interval=20, ping_timeout=10) as served:
            client = await served.session(protocol)
            await app.accepted.wait()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.send, b"x" * 3_000_000)
                await app.ended.wait()
        assert app.end == (1006, "")
        assert app.lasted < 60


class Talker(Listener):
    """Sends so many messages of a size, after a while, and then looks at nothing for as long as it may."""

    def __init__(self, *sizes, after=0):
        super().__init__()
        self.sizes, self.after = sizes, after
        self.stopped = None

    async def talk(self):
        await trio.sleep(self.after)
        try:
            for size in self.sizes:
                await self.send({"type": "websocket.send", "bytes": b"x" * size})
        except ClientDisconnected:
            self.stopped = trio.current_time() - self.begun
            await super().talk()
            await trio.sleep_forever()
        await super().talk()


class TestPingsWhileSending:
    @both
    @pytest.mark.parametrize("after", [0, 12])
    @pytest.mark.parametrize("sizes", [[3_000_000], [1000] * 10_000], ids=["one", "many"])
    async def test_a_client_that_vanishes(self, protocol, after, sizes, autojump_clock):
        """Its application waits in `send()`; with a ping that waits for its answer, or without one."""
        app = Talker(*sizes, after=after)
        timeouts = {"write_stall": 0, "disconnect_grace": 3}
        async with open_server(
            app, limit=LIMIT, ping_interval=10, ping_timeout=5, timeouts=timeouts
        ) as served:
            await served.session(protocol)
            await app.ended.wait()
        # One look in between may find that the client's window has let something go.
        assert after + 15 <= app.stopped <= after + 25.2
        assert app.end == (1006, "")
        assert app.cancelled
        assert app.lasted == pytest.approx(app.stopped + 3, abs=0.2)
        assert served.server.stats().disconnects == 1

    async def test_a_client_that_vanishes_with_its_windows_open(self, autojump_clock):
        """Then it is the socket that takes nothing."""
        app = Talker(*[1000] * 10_000)
        windows = {SettingsFrame.INITIAL_WINDOW_SIZE: 1 << 30}
        timeouts = {"write_stall": 0}
        async with open_server(
            app, limit=LIMIT, ping_interval=10, ping_timeout=5, timeouts=timeouts
        ) as served:
            client = await served.session("http2", settings=windows)
            await client.stream.client.send(WindowUpdateFrame(0, 1 << 30))
            await app.ended.wait()
            assert app.stopped == pytest.approx(25, abs=11)
            assert app.end == (1006, "")

    async def test_a_stream_whose_window_stays_closed_beside_one_that_lives(self, autojump_clock):
        talker = Talker(1_000_000)

        async def app(scope, receive, send):
            if scope["path"] == "/talker":
                await talker(scope, receive, send)
            else:
                await receive()
                await send(ACCEPT)
                while (await receive())["type"] == "websocket.receive":
                    await send({"type": "websocket.send", "text": "y"})

        timeouts = {"write_stall": 0}
        async with open_server(
            app, limit=LIMIT, ping_interval=10, ping_timeout=5, timeouts=timeouts
        ) as served:
            tunnels = await served.tunnels({SettingsFrame.INITIAL_WINDOW_SIZE: 1000})
            await open_http2_session(tunnels, "/talker")
            living = await open_http2_session(tunnels)
            while not talker.ended.is_set():
                await trio.sleep(1)
                await living.send("x")
                assert await living.receive() == "y"
            assert (await living.close()).code == 1000
        assert 15 <= talker.stopped <= 25.2

    @both
    @pytest.mark.parametrize("after", [1, 22])
    @pytest.mark.parametrize("sizes", [[1_000_000], [1000] * 1000], ids=["one", "many"])
    async def test_a_client_that_reads_slowly_lives(self, protocol, after, sizes, autojump_clock):
        """It answers a ping when it has read what is before it, and that takes its time."""
        app = Talker(*sizes, after=after)
        timeouts = {"write_stall": 0}
        async with open_server(
            app, limit=LIMIT, ping_interval=20, ping_timeout=30, timeouts=timeouts
        ) as served:
            client = await served.session(protocol)
            await trio.sleep(after + 1)
            got = 0
            while got < 1_000_000:
                await trio.sleep(5)
                got += len(await client.stream.receive_some(40_000))
            await client.send_frame(FIN | CLOSE)
            while await client.stream.receive_some(65536):
                pass
            await app.ended.wait()
        assert app.end == (1005, "")
        assert app.lasted > 100

    @both
    async def test_a_client_that_reads_so_slowly_that_the_kernel_asks_for_nothing(
        self, protocol, autojump_clock
    ):
        """It takes more than both times until there is room again, but bytes leave meanwhile."""
        app = Talker(2_000_000)
        timeouts = {"write_stall": 0}
        async with open_server(
            app, limit=LIMIT, ping_interval=20, ping_timeout=30, timeouts=timeouts
        ) as served:
            client = await served.session(protocol)
            for _ in range(80):
                await trio.sleep(5)
                assert await client.stream.receive_some(8_000)
            assert not app.ended.is_set()
            assert app.stopped is None


class TestIdle:
    @both
    @pytest.mark.parametrize("seconds", [0, 1000])
    async def test_an_idle_session_is_closed(self, protocol, seconds, autojump_clock):
        app = Busy(seconds)
        async with open_server(app, limit=LIMIT, idle_timeout=100) as served:
            client = await served.session(protocol)
            begun = trio.current_time()
            close = await client.wait_close()
            assert trio.current_time() - begun == pytest.approx(100, abs=0.1)
            assert close.code == 1001
            await client.send_frame(FIN | CLOSE, close.payload)
            await client.wait_end()
            await app.ended.wait()
        assert app.lasted == pytest.approx(103 if seconds else 100, abs=0.2)
        assert seconds or app.end[0] == 1001

    @both
    @pytest.mark.parametrize("ours", [True, False])
    async def test_messages_of_either_side_keep_it(self, protocol, ours, autojump_clock):
        app = Listener()
        async with open_server(app, limit=LIMIT, idle_timeout=100, ping_interval=0) as served:
            client = await served.session(protocol)
            await app.accepted.wait()
            begun = trio.current_time()
            for _ in range(10):
                await trio.sleep(90)
                if ours:
                    await app.send({"type": "websocket.send", "text": "x"})
                else:
                    await client.send("x")
            assert (await client.wait_close()).code == 1001
            assert trio.current_time() - begun == pytest.approx(1000, abs=0.2)
            await client.send_frame(FIN | CLOSE)
            await app.ended.wait()


class TestStalls:
    @both
    async def test_a_client_that_stops_reading(self, protocol, autojump_clock):
        """The application's send waits at the high-water mark, and the stall ends it."""
        sent = 0

        class Talker(Listener):
            async def talk(self):
                nonlocal sent
                while True:
                    await self.send({"type": "websocket.send", "bytes": b"x" * 1000})
                    sent += 1

        app = Talker()
        timeouts = {"write_stall": 50}
        async with open_server(app, limit=LIMIT, timeouts=timeouts, ping_interval=0) as served:
            client = await served.session(protocol)
            await trio.sleep(40)
            blocked = sent
            assert 10 < blocked < 600
            await app.ended.wait()
            assert sent == blocked
            with pytest.raises(trio.BrokenResourceError) if protocol == "http2" else trio.CancelScope():
                while await client.stream.receive_some(65536):
                    pass
        assert app.lasted == pytest.approx(50, abs=1)
        assert app.cancelled
        assert served.server.stats().timeouts == 1

    @both
    async def test_a_client_that_reads_slowly_is_no_stall(self, protocol, autojump_clock):
        class Talker(Listener):
            async def talk(self):
                await self.send({"type": "websocket.send", "bytes": b"x" * 1_000_000})
                await super().talk()

        app = Talker()
        async with open_server(app, limit=LIMIT, timeouts={"write_stall": 50}, ping_interval=0) as served:
            client = await served.session(protocol)
            got = 0
            while got < 800_000:
                await trio.sleep(5)
                got += len(await client.stream.receive_some(40_000))
            await client.send_frame(FIN | CLOSE)
            while await client.stream.receive_some(65536):
                pass
            await app.ended.wait()
        assert app.end == (1005, "")

    async def test_a_window_that_trickles_is_a_stall(self, autojump_clock):
        class Talker(Listener):
            async def talk(self):
                await self.send({"type": "websocket.send", "bytes": b"x" * 1_000_000})

        app = Talker()
        async with open_server(app, limit=LIMIT, timeouts={"write_stall": 20}, ping_interval=0) as served:
            client = await served.session("http2", settings={SettingsFrame.INITIAL_WINDOW_SIZE: 0})
            stream_id = client.stream.stream_id
            with trio.move_on_after(200):
                while not app.ended.is_set():
                    await trio.sleep(5)
                    await client.stream.client.send(WindowUpdateFrame(stream_id, 1))
            assert app.lasted == pytest.approx(20, abs=6)
        assert served.server.stats().timeouts == 1

    @pytest.mark.parametrize(("write_stall", "ping_interval"), [(20, 0), (20, 10), (0, 10)])
    async def test_a_session_that_waits_for_the_connection_is_not_stalled(
        self, write_stall, ping_interval, autojump_clock
    ):
        """Another stream takes all of the connection's window."""

        async def app(scope, receive, send):
            if scope["type"] == "http":
                await send({"type": "http.response.start", "status": 200, "headers": [(b"priority", b"u=0")]})
                await send({"type": "http.response.body", "body": b"x" * 2_000_000})
            else:
                await receive()
                await send(ACCEPT)
                await send({"type": "websocket.send", "bytes": b"y" * 200_000})
                await receive()

        window = {SettingsFrame.INITIAL_WINDOW_SIZE: 4_000_000}
        async with open_server(
            app,
            limit=LIMIT,
            timeouts={"write_stall": write_stall},
            ping_interval=ping_interval,
            ping_timeout=10,
        ) as served:
            tunnels = await served.tunnels(window)
            await tunnels.request(headers=[(b"priority", b"u=0")])
            tunnel = await tunnels.open_tunnel(headers=[(b"sec-websocket-version", b"13")])
            for _ in range(60):
                await trio.sleep(5)
                await tunnels.send(WindowUpdateFrame(0, 20_000))
                await tunnels.ping()
            assert tunnels.record(tunnel.stream_id).reset is None

    @both
    async def test_a_denial_that_is_not_read(self, protocol, autojump_clock):
        ended = trio.Event()

        async def app(scope, receive, send):
            try:
                await receive()
                await send({"type": "websocket.http.response.start", "status": 401, "headers": []})
                await send({"type": "websocket.http.response.body", "body": b"x" * 3_000_000})
            finally:
                ended.set()

        async with open_server(app, limit=LIMIT, timeouts={"write_stall": 50}) as served:
            if protocol == "http1":
                client = RawClient(await served.stream())
                await client.send(
                    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"
                    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
                )
            else:
                tunnels = await served.tunnels()
                await tunnels.open_tunnel(headers=[(b"sec-websocket-version", b"13")])
            begun = trio.current_time()
            await ended.wait()
            assert 50 <= trio.current_time() - begun <= 101
        assert served.server.stats().timeouts == 1

    @both
    async def test_a_flood_of_pings_whose_client_does_not_read(self, protocol, autojump_clock):
        """The client then says goodbye, and still does not read."""
        app = Listener()
        async with open_server(app, limit=LIMIT, ping_interval=0, close_timeout=10) as served:
            client = await served.session(protocol)
            await app.accepted.wait()
            for _ in range(20_000 if protocol == "http1" else 5000):
                await client.send_frame(FIN | PING, b"x" * 125)
            await client.send_frame(FIN | CLOSE, close_payload(1000))
            await app.ended.wait()
            assert app.end == (1000, "")
            await trio.sleep(15)
            assert served.server.stats().requests_running == 0


class TestClosing:
    @both
    async def test_a_client_that_does_not_answer_our_close(self, protocol, autojump_clock):
        class Closer(Listener):
            async def talk(self):
                await self.send({"type": "websocket.close", "code": 4000})
                await super().talk()

        app = Closer()
        async with open_server(app, limit=LIMIT, close_timeout=10) as served:
            client = await served.session(protocol)
            await app.ended.wait()
            assert (await client.wait_close()).code == 4000
            await client.wait_end()
        assert app.lasted == pytest.approx(10, abs=0.1)
        assert app.end == (1006, "")

    @both
    async def test_after_the_return_of_the_application(self, protocol, autojump_clock):
        async def app(scope, receive, send):
            await receive()
            await send(ACCEPT)

        async with open_server(app, limit=LIMIT, close_timeout=10) as served:
            client = await served.session(protocol)
            begun = trio.current_time()
            await client.wait_end()
            assert trio.current_time() - begun == pytest.approx(10, abs=0.1)

    @both
    async def test_a_client_that_talks_on_instead(self, protocol, autojump_clock):
        async def app(scope, receive, send):
            await receive()
            await send(ACCEPT)

        async with open_server(app, limit=LIMIT, close_timeout=10) as served:
            client = await served.session(protocol)
            begun = trio.current_time()
            with contextlib.suppress(trio.BrokenResourceError):
                while trio.current_time() < begun + 20:
                    await client.send("x" * 100)
                    with trio.move_on_after(0.1):
                        await client.wait_end()
                        break
            assert trio.current_time() - begun == pytest.approx(10, abs=0.2)

    @both
    async def test_an_application_that_closes_and_does_something_else(self, protocol, autojump_clock):
        """What the client still says must not hide its answer."""

        class Closer(Listener):
            async def talk(self):
                await self.send({"type": "websocket.close", "code": 4000})
                await trio.sleep(2)

        app = Closer()
        async with open_server(app, limit=LIMIT, queue=2) as served:
            client = await served.session(protocol)
            assert (await client.wait_close()).code == 4000
            for _ in range(20):
                await client.send("still here")
            await client.send_frame(FIN | CLOSE, close_payload(4000))
            await client.wait_end()
            assert not client.reset
            await app.ended.wait()
        assert app.lasted == pytest.approx(2, abs=0.1)


class TestGraces:
    @both
    async def test_the_application_is_cancelled_when_its_client_has_left(self, protocol, autojump_clock):
        app = Busy(100)
        async with open_server(app, limit=LIMIT, timeouts={"disconnect_grace": 4}) as served:
            client = await served.session(protocol)
            await app.accepted.wait()
            await client.aclose()
            await app.ended.wait()
        assert app.lasted == pytest.approx(4, abs=0.1)
        assert app.cancelled

    @both
    @pytest.mark.parametrize("how", ["setting", "control"])
    async def test_unless_it_opted_out(self, protocol, how, autojump_clock):
        class OptsOut(Busy):
            async def talk(self):
                if how == "control":
                    assert self.control.cancel_on_disconnect
                    self.control.cancel_on_disconnect = False
                await super().talk()

        app = OptsOut(100)
        lifecycle = {"on_disconnect": "notify"} if how == "setting" else {}
        async with open_server(app, limit=LIMIT, lifecycle=lifecycle) as served:
            client = await served.session(protocol)
            await app.accepted.wait()
            await client.aclose()
            await app.ended.wait()
        assert app.lasted == pytest.approx(100, abs=0.1)
        assert app.end == (1006, "")

    @both
    async def test_also_when_messages_wait_for_it(self, protocol, autojump_clock):
        app = Busy(100)
        async with open_server(app, limit=LIMIT, queue=2, timeouts={"disconnect_grace": 4}) as served:
            client = await served.session(protocol)
            await app.accepted.wait()
            for _ in range(10):
                await client.send("x")
            if protocol == "http2":
                await client.stream.reset()
            else:
                await client.aclose()
            await app.ended.wait()
        assert app.lasted == pytest.approx(4, abs=0.1)
        assert app.cancelled

    @both
    async def test_a_deadline_that_the_application_sets(self, protocol, autojump_clock):
        class Hurried(Busy):
            async def talk(self):
                assert self.control.deadline == inf
                self.control.deadline = trio.current_time() + 30
                await super().talk()

        app = Hurried(1000)
        async with open_server(app, limit=LIMIT) as served:
            client = await served.session(protocol)
            close = await client.wait_close()
            assert close.code == 1011
            await client.send_frame(FIN | CLOSE, close.payload)
            await client.wait_end()
            assert not client.reset
        assert app.lasted == pytest.approx(30, abs=0.1)
        assert app.cancelled
        assert served.server.stats().timeouts == 1

    @both
    async def test_the_setting_for_requests_is_not_for_sessions(self, protocol, autojump_clock):
        app = Listener()
        async with open_server(app, limit=LIMIT, timeouts={"request": 10}) as served:
            client = await served.session(protocol)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.wait_close)
                await trio.sleep(290)  # between two pings
                assert not app.ended.is_set()
                await client.send_frame(FIN | CLOSE)

    @both
    async def test_cleanup_has_its_grace_and_the_client_does_not_wait_for_more(
        self, protocol, autojump_clock
    ):
        class Stubborn(Listener):
            async def talk(self):
                self.control.deadline = trio.current_time() + 10
                with trio.CancelScope(shield=True):
                    await trio.sleep(100)

        app = Stubborn()
        complaints = ["does not end after its cancellation (request timeout)"]
        timeouts = {"cleanup_grace": 4}
        async with open_server(app, limit=LIMIT, timeouts=timeouts, complaints=complaints) as served:
            client = await served.session(protocol)
            begun = trio.current_time()
            await client.wait_end()
            assert trio.current_time() - begun == pytest.approx(14, abs=0.1)
            await app.ended.wait()
        assert app.lasted == pytest.approx(100, abs=0.1)

    @both
    async def test_an_undecided_application_whose_client_leaves(self, protocol, autojump_clock):
        told, ended = [], trio.Event()

        async def app(scope, receive, send):
            await receive()
            told.append(await receive())
            ended.set()
            with pytest.raises(ClientDisconnected):
                await send(ACCEPT)

        async with open_server(app, limit=LIMIT) as served:
            with trio.move_on_after(5):
                await served.session(protocol)
            await served.aclose()
            await ended.wait()
        assert told == [{"type": "websocket.disconnect", "code": 1006, "reason": ""}]
