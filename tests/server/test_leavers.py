from __future__ import annotations

import trio
import trio.testing

from trioserve import Config
from trioserve.config import LifecycleSettings, LoggingSettings, TimeoutSettings
from trioserve.server.leavers import MOST_LEAVERS, Leavers
from trioserve.testing.http2_client import Http2Client
from trioserve.testing.memory import open_memory_server


class Leaver:
    def __init__(self):
        self.hastened = 0

    def hasten(self):
        self.hastened += 1
        return True


def test_the_oldest_has_to_go_when_there_are_too_many():
    leavers, all_of_them = Leavers(2), [Leaver() for _ in range(4)]
    for leaver in all_of_them:
        leavers.add(leaver)
    assert [leaver.hastened for leaver in all_of_them] == [1, 1, 0, 0]
    assert len(leavers) == 2


def test_one_that_leaves_twice_keeps_its_place_and_one_that_ended_frees_it():
    leavers, first, second, third = Leavers(2), Leaver(), Leaver(), Leaver()
    for leaver in (first, second, first):
        leavers.add(leaver)
    leavers.discard(second)
    leavers.add(third)
    assert first.hastened == 0
    leavers.add(second)
    assert (first.hastened, third.hastened) == (1, 0)


async def test_clients_that_leave_again_and_again_have_few_applications_running():
    running = most = 0

    async def app(scope, receive, send):
        nonlocal running, most
        running += 1
        most = max(most, running)
        try:
            await trio.sleep_forever()
        finally:
            running -= 1

    config = Config(
        logging=LoggingSettings(access="off"),
        lifecycle=LifecycleSettings(lifespan="off"),
        timeouts=TimeoutSettings(disconnect_grace=3600, graceful=0.1),
    )
    async with open_memory_server(app, config) as server:
        for turn in range(1, MOST_LEAVERS // 100 + 4):
            async with Http2Client(server.connect()) as client:
                await client.start()
                for _ in range(100):
                    await client.send(*client.request_frames())
                await client.ping()
                await trio.testing.wait_all_tasks_blocked()
            await trio.testing.wait_all_tasks_blocked()
            assert running == min(turn * 100, MOST_LEAVERS)
    assert most <= MOST_LEAVERS + 100
