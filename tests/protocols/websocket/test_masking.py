from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.protocols.websocket.rows import ROWS
from trioserve.protocols.websocket.machine import WebSocketMachine
from trioserve.protocols.websocket.masking import unmask, unmask_in_python
from trioserve.testing.websocket_checks import check_websocket_machine

KEY = b"\x01\x80\xff\x3c"


@pytest.mark.parametrize("function", [unmask, unmask_in_python])
@pytest.mark.parametrize("size", [0, 1, 3, 4, 7, 8, 15, 16, 17, 31, 33, 255, 256, 257, 1023, 70001])
def test_each_byte_takes_its_byte_of_the_key(function, size):
    payload = bytes(index * 7 % 256 for index in range(size))
    assert function(payload, KEY) == bytes(byte ^ KEY[index % 4] for index, byte in enumerate(payload))
    assert function(bytes(function(payload, KEY)), KEY) == payload


@pytest.mark.parametrize("size", [125, 300, 65536])
def test_both_functions_agree(size):
    payload = os.urandom(size)
    for _ in range(50):
        key = os.urandom(4)
        assert unmask(payload, key) == unmask_in_python(payload, key)


def test_the_machine_without_the_package(monkeypatch):
    monkeypatch.setattr("trioserve.protocols.websocket.machine.unmask", unmask_in_python)
    check_websocket_machine(WebSocketMachine, ROWS)


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    ("missing", "chosen"),
    [("", "websockets.speedups"), ("websockets", "trioserve"), ("websockets.speedups", "trioserve")],
)
def test_what_is_installed_decides(missing, chosen):
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({missing!r}.split()))\n"
        "from trioserve.protocols.websocket.masking import unmask, unmask_in_python\n"
        "print('trioserve' if unmask is unmask_in_python else 'websockets.speedups')"
    )
    assert run(code).strip() == chosen


def test_the_package_brings_no_other_event_loop_along():
    code = "import sys, trioserve.protocols.websocket.masking; print('asyncio' in sys.modules)"
    assert run(code).strip() == "False"
