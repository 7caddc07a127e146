from __future__ import annotations

import contextvars

import pytest
import trio
import trio.testing

from trioserve.asgi.errors import ApplicationError
from trioserve.asgi.lifespan import HURRIED_SHUTDOWN, LifespanFailed, LifespanOutcome, open_lifespan

STARTED = {"type": "lifespan.startup.complete"}
STOPPED = {"type": "lifespan.shutdown.complete"}


async def whole(scope, receive, send):
    assert await receive() == {"type": "lifespan.startup"}
    await send(STARTED)
    assert await receive() == {"type": "lifespan.shutdown"}
    await send(STOPPED)


class TestStart:
    async def test_whole_life(self, error_log):
        async with open_lifespan(whole, "on") as lifespan:
            assert lifespan.outcome is LifespanOutcome.STARTED
            assert not lifespan.ended.is_set()
        assert lifespan.outcome is LifespanOutcome.STOPPED
        assert error_log() == []

    async def test_the_scope(self):
        seen = {}

        async def app(scope, receive, send):
            seen.update(scope)
            scope["state"]["key"] = "value"
            await whole(scope, receive, send)

        async with open_lifespan(app, "on") as lifespan:
            assert lifespan.state == {"key": "value"}
        assert seen["type"] == "lifespan"
        assert seen["asgi"] == {"version": "3.0", "spec_version": "2.0"}

    @pytest.mark.parametrize("error", [None, AssertionError, KeyError])
    async def test_none_in_auto(self, error, error_log, autojump_clock):
        async def app(scope, receive, send):
            await trio.sleep(1)
            if error is not None:
                raise error

        async with open_lifespan(app, "auto", 60) as lifespan:
            assert lifespan.outcome is LifespanOutcome.UNSUPPORTED
        assert trio.current_time() == pytest.approx(1)
        assert error_log() == []

    async def test_an_application_that_returns_after_receive_has_none_in_auto(self, error_log):
        async def app(scope, receive, send):
            await receive()

        async with open_lifespan(app, "auto") as lifespan:
            assert lifespan.outcome is LifespanOutcome.UNSUPPORTED
        assert error_log() == []

    @pytest.mark.parametrize("error", [None, RuntimeError])
    async def test_none_in_on(self, error, error_log):
        async def app(scope, receive, send):
            if error is not None:
                raise error

        with pytest.raises(LifespanFailed):
            async with open_lifespan(app, "on"):
                pytest.fail("entered")
        assert len(error_log()) == 1

    async def test_off_never_calls(self):
        async def app(scope, receive, send):
            pytest.fail("called")

        async with open_lifespan(app, "off") as lifespan:
            assert lifespan.outcome is LifespanOutcome.UNSUPPORTED

    @pytest.mark.parametrize("mode", ["auto", "on"])
    async def test_an_exception_after_receive(self, mode, error_log):
        async def app(scope, receive, send):
            await receive()
            raise RuntimeError

        with pytest.raises(LifespanFailed):
            async with open_lifespan(app, mode):
                pytest.fail("entered")
        assert error_log() == ["the application failed to start: no lifespan.startup.complete came"]

    @pytest.mark.parametrize("raises", [True, False])
    async def test_a_message_of_failure(self, raises, error_log):
        async def app(scope, receive, send):
            await receive()
            await send({"type": "lifespan.startup.failed", "message": "no database"})
            if raises:
                raise RuntimeError

        with pytest.raises(LifespanFailed):
            async with open_lifespan(app, "auto"):
                pytest.fail("entered")
        assert error_log() == ["the application failed to start: no database"]

    async def test_a_message_of_failure_in_several_lines(self, caplog):
        async def app(scope, receive, send):
            await receive()
            await send({"type": "lifespan.startup.failed", "message": "Traceback:\n  line\n"})

        with pytest.raises(LifespanFailed):
            async with open_lifespan(app, "auto"):
                pass
        (record,) = caplog.records
        assert record.getMessage() == "the application failed to start"
        assert record.detail == "Traceback:\n  line"

    async def test_a_start_too_long(self, error_log, autojump_clock):
        cancelled = []

        async def app(scope, receive, send):
            await receive()
            try:
                await trio.sleep_forever()
            except trio.Cancelled:
                cancelled.append(trio.current_time() - begin)
                raise

        begin = trio.current_time()
        with pytest.raises(LifespanFailed):
            async with open_lifespan(app, "auto", 12):
                pytest.fail("entered")
        assert cancelled == [12]
        assert error_log() == ["the application failed to start within 12 s"]

    async def test_cancelling_a_start(self):
        async def app(scope, receive, send):
            await receive()
            await trio.sleep_forever()

        with trio.move_on_after(0.01) as impatient:
            async with open_lifespan(app, "auto"):
                pytest.fail("entered")
        assert impatient.cancelled_caught

    @pytest.mark.parametrize("message", [STARTED, STOPPED, {"type": "http.response.start"}])
    async def test_messages_out_of_order(self, message):
        async def app(scope, receive, send):
            await receive()
            await send(STARTED)
            with pytest.raises(ApplicationError, match=message["type"]):
                await send(message)
            await receive()
            await send(STOPPED)

        async with open_lifespan(app, "on") as lifespan:
            await trio.testing.wait_all_tasks_blocked()
        assert lifespan.outcome is LifespanOutcome.STOPPED


class TestServing:
    @pytest.mark.parametrize("error", [None, RuntimeError])
    async def test_a_lifespan_that_ends_has_died(self, error, error_log):
        async def app(scope, receive, send):
            await receive()
            await send(STARTED)
            await die.wait()
            if error is not None:
                raise error

        die = trio.Event()
        async with open_lifespan(app, "auto") as lifespan:
            die.set()
            await lifespan.ended.wait()
        assert lifespan.outcome is LifespanOutcome.DIED
        assert error_log() == ["the application's lifespan ended while it was serving"]

    async def test_its_context_is_that_of_the_end_of_the_start(self):
        variable = contextvars.ContextVar("variable", default="unset")

        async def app(scope, receive, send):
            await receive()
            variable.set("set")
            await send(STARTED)
            await receive()

        async with open_lifespan(app, "auto") as lifespan:
            assert lifespan.context.run(variable.get) == "set"
            assert variable.get() == "unset"


class TestStop:
    async def test_without_a_message(self, error_log):
        async def app(scope, receive, send):
            await receive()
            await send(STARTED)
            await receive()

        async with open_lifespan(app, "auto") as lifespan:
            pass
        assert lifespan.outcome is LifespanOutcome.STOPPED
        assert error_log() == []

    async def test_an_exception(self, error_log):
        async def app(scope, receive, send):
            await receive()
            await send(STARTED)
            await receive()
            raise RuntimeError

        async with open_lifespan(app, "auto") as lifespan:
            pass
        assert lifespan.outcome is LifespanOutcome.SHUTDOWN_FAILED
        assert error_log() == ["the application failed to shut down"]

    async def test_a_message_of_failure(self, error_log):
        async def app(scope, receive, send):
            await receive()
            await send(STARTED)
            await receive()
            await send({"type": "lifespan.shutdown.failed", "message": "disk full"})

        async with open_lifespan(app, "auto") as lifespan:
            pass
        assert lifespan.outcome is LifespanOutcome.SHUTDOWN_FAILED
        assert error_log() == ["the application failed to shut down: disk full"]

    @pytest.mark.parametrize("hurried", [True, False])
    async def test_too_long(self, hurried, error_log, autojump_clock):
        async def app(scope, receive, send):
            await receive()
            await send(STARTED)
            await receive()
            await trio.sleep_forever()

        begin = trio.current_time()
        async with open_lifespan(app, "auto", 60, 20) as lifespan:
            if hurried:
                lifespan.hurry()
        assert trio.current_time() - begin == pytest.approx(HURRIED_SHUTDOWN if hurried else 20)
        assert lifespan.outcome is LifespanOutcome.SHUTDOWN_FAILED
        assert error_log() == ["the application failed to shut down in time"]

    async def test_runs_when_the_block_is_cancelled(self, autojump_clock):
        done = []

        async def app(scope, receive, send):
            async with trio.open_nursery() as nursery:  # as a framework's own, cancelled with it
                nursery.start_soon(trio.sleep_forever)
                await receive()
                await send(STARTED)
                await receive()
                await trio.sleep(5)
                done.append("shutdown")
                await send(STOPPED)
                nursery.cancel_scope.cancel()

        with trio.CancelScope() as scope:
            async with open_lifespan(app, "auto", 60, 20) as lifespan:
                scope.cancel()
                await trio.sleep_forever()
        assert done == ["shutdown"]
        assert lifespan.outcome is LifespanOutcome.STOPPED

    async def test_runs_when_the_block_raises(self):
        with pytest.RaisesGroup(ZeroDivisionError):
            async with open_lifespan(whole, "auto") as lifespan:
                raise ZeroDivisionError
        assert lifespan.outcome is LifespanOutcome.STOPPED
