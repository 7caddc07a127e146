"""Requests that last until the test, which listens on GATE_PORT, lets them go; and some that never end."""

from __future__ import annotations

import os
import socket
import threading
import time


def wait_at_the_gate():
    with socket.create_connection(("127.0.0.1", int(os.environ["GATE_PORT"]))) as gate:
        gate.recv(1)


def sleep_for_an_hour():
    time.sleep(3600)


def wait_for_ever():
    threading.Event().wait()


def compute_for_ever():
    while True:
        pass


STUCK = {
    "/sleep": sleep_for_an_hour,
    "/wait": wait_for_ever,
    "/compute": compute_for_ever,
}


def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/gate":
        wait_at_the_gate()
    elif path == "/stream":
        return stream(start_response)
    elif path in STUCK:
        print("stuck", file=environ["wsgi.errors"])
        STUCK[path]()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"done"]


def stream(start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    yield b"first "
    wait_at_the_gate()
    yield b"last"
