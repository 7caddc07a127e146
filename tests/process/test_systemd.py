"""What a service manager hears, from the notifier alone."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import time

import pytest
import trio

from trioserve.process.systemd import Notifier


class Manager:
    """The service manager's end: a datagram socket."""

    def __init__(self, address):
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.settimeout(20)
        self.socket.bind(f"\0{address[1:]}" if address.startswith("@") else address)

    def next(self):
        """The assignments of the next message."""
        message = self.socket.recv(4096).decode()
        return dict(line.split("=", 1) for line in message.split("\n"))

    def nothing_waits(self):
        self.socket.setblocking(False)
        with pytest.raises(BlockingIOError):
            self.socket.recv(4096)
        return True


@pytest.fixture
def manager(tmp_path):
    manager = Manager(str(tmp_path / "notify"))
    yield manager
    manager.socket.close()


@pytest.fixture
def warnings(caplog):
    caplog.set_level(logging.WARNING, "trioserve")
    return lambda: [record.getMessage() for record in caplog.records]


def test_messages(manager):
    notifier = Notifier.from_environ({"NOTIFY_SOCKET": manager.address})
    notifier.ready("2 workers\nserve")
    assert manager.next() == {"READY": "1", "STATUS": "2 workers serve"}
    before = time.monotonic_ns() // 1000
    notifier.reloading()
    message = manager.next()
    assert before <= int(message.pop("MONOTONIC_USEC")) <= time.monotonic_ns() // 1000
    assert message == {"RELOADING": "1", "STATUS": "reloading"}
    notifier.status("1 of 2 workers serve")
    assert manager.next() == {"STATUS": "1 of 2 workers serve"}
    notifier.feed()
    assert manager.next() == {"WATCHDOG": "1"}
    notifier.stopping()
    assert manager.next() == {"STOPPING": "1", "STATUS": "stopping"}
    assert manager.nothing_waits()


def test_the_abstract_namespace():
    manager = Manager(f"@trioserve-{secrets.token_hex(8)}")
    Notifier.from_environ({"NOTIFY_SOCKET": manager.address}).feed()
    assert manager.next() == {"WATCHDOG": "1"}
    manager.socket.close()


def test_nothing_is_left_for_the_processes_that_we_start(manager):
    environ = {
        "NOTIFY_SOCKET": manager.address,
        "WATCHDOG_USEC": "3000000",
        "WATCHDOG_PID": str(os.getpid()),
        "OTHER": "stays",
    }
    assert Notifier.from_environ(environ).watchdog_interval == 3.0
    assert environ == {"OTHER": "stays"}


@pytest.mark.parametrize(
    ("variables", "interval"),
    [
        ({"WATCHDOG_USEC": "1500000"}, 1.5),
        ({"WATCHDOG_USEC": "1500000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "-5"}, None),
        ({}, None),
    ],
)
def test_the_interval_of_the_watchdog(manager, variables, interval):
    assert (
        Notifier.from_environ({"NOTIFY_SOCKET": manager.address, **variables}).watchdog_interval == interval
    )


def test_without_a_manager_there_is_nothing_to_feed():
    assert Notifier.from_environ({"WATCHDOG_USEC": "1500000"}).watchdog_interval is None


def test_without_a_manager_nothing_happens(warnings):
    notifier = Notifier.from_environ({})
    notifier.ready("ready")
    notifier.feed()
    assert warnings() == []


@pytest.mark.parametrize("address", ["/nowhere/notify", "/with\0zero", "@" + 200 * "x"])
def test_a_manager_that_cannot_be_told_is_mentioned_once(address, warnings):
    notifier = Notifier.from_environ({"NOTIFY_SOCKET": address})
    notifier.ready("ready")
    notifier.feed()
    assert [message.partition(":")[0] for message in warnings()] == ["cannot notify the service manager"]


def test_other_kinds_of_address(warnings):
    Notifier.from_environ({"NOTIFY_SOCKET": "vsock:2:1234"}).ready("ready")
    assert warnings() == ["cannot notify 'vsock:2:1234': neither a path nor an abstract name"]


def test_a_manager_that_does_not_read_keeps_nobody_waiting(manager, warnings):
    notifier = Notifier.from_environ({"NOTIFY_SOCKET": manager.address})
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            while True:
                sock.sendto(b"x", manager.address)
    notifier.ready("ready")
    assert warnings() == ["cannot notify the service manager: timed out"]


async def test_the_watchdog_is_fed_twice_an_interval_while_all_is_well(manager, autojump_clock):
    notifier = Notifier.from_environ({"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "10000000"})
    healthy = True
    async with trio.open_nursery() as nursery:
        nursery.start_soon(notifier.feed_while, lambda: healthy)
        await trio.sleep(14)
        for _ in range(3):  # at 0, 5 and 10 s
            assert manager.next() == {"WATCHDOG": "1"}
        healthy = False
        await trio.sleep(100)
        assert manager.nothing_waits()
        healthy = True
        await trio.sleep(5)
        manager.next()
        nursery.cancel_scope.cancel()


async def test_there_may_be_no_watchdog(manager, autojump_clock):
    await Notifier.from_environ({"NOTIFY_SOCKET": manager.address}).feed_while(lambda: True)
    assert manager.nothing_waits()
