"""Real servers under a service manager: what it is told, and the sockets that it hands over."""

from __future__ import annotations

import os
import re
import signal
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
import trustme

from tests.e2e.programs import ROOT, require
from tests.process.clients import Http1Connection, open_socket
from tests.process.supervised import Supervised, wait_until
from tests.server_process import send_request
from trioserve.config import load_config

WATCHDOG = 0.4
UNITS = ROOT / "config" / "systemd"


class Manager:
    """Hears what a service manager is told."""

    def __init__(self, directory):
        self._path = str(directory / "notify")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self._path)

    def close(self):
        self._socket.close()

    @property
    def environment(self):
        return {"NOTIFY_SOCKET": self._path}

    @property
    def environment_with_watchdog(self):
        return self.environment | {"WATCHDOG_USEC": str(int(WATCHDOG * 1_000_000))}

    def next(self, patience=20.0):
        """The next message; empty when none comes."""
        self._socket.settimeout(patience)
        try:
            message = self._socket.recv(4096).decode()
        except (TimeoutError, BlockingIOError):
            return {}
        return dict(line.split("=", 1) for line in message.split("\n"))

    def next_state(self):
        """The next message that is no food for the watchdog."""
        while (message := self.next()) == {"WATCHDOG": "1"}:
            pass
        return message


@pytest.fixture
def manager(tmp_path):
    manager = Manager(tmp_path)
    yield manager
    manager.close()


WORKERS = pytest.mark.parametrize(
    "workers",
    [("-w", "0"), ("-w", "2"), ("-w", "2", "--process-preload")],
    ids=["alone", "workers", "preload"],
)


class TestNotification:
    @WORKERS
    def test_ready_when_all_are_ready_then_stopping(self, tmp_path, manager, workers):
        opened = tmp_path / "opened"
        # One of the processes waits in its start-up; the others do not.
        starts = (
            "import pathlib\n"
            f"first, opened = pathlib.Path({str(tmp_path / 'first')!r}), pathlib.Path({str(opened)!r})\n"
            "try:\n"
            "    first.touch(exist_ok=False)\n"
            "    while not opened.exists(): time.sleep(0.01)\n"
            "except FileExistsError: pass\n"
        )
        environment = manager.environment | {"APP_AT_STARTUP": starts}
        with Supervised(tmp_path, *workers, env=environment) as server:
            wait_until((tmp_path / "first").exists, "the first one starts")
            if workers[1] == "2":
                server.wait_for_line("is ready")
            assert manager.next(0.1) == {}
            opened.touch()
            message = manager.next()
            url = server.wait_until_serving()
            assert message == {"READY": "1", "STATUS": f"serving on {url}"}
            server.signal(signal.SIGTERM)
            assert manager.next() == {"STOPPING": "1", "STATUS": "stopping"}
            assert server.wait() == 0
            assert manager.next(0) == {}

    @WORKERS
    def test_nobody_else_may_speak(self, tmp_path, manager, workers):
        note = 'import os; note(f\'{sorted(set(os.environ) & {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"})}\')'
        environment = manager.environment_with_watchdog | {"APP_AT_IMPORT": note}
        with Supervised(tmp_path, *workers, env=environment) as server:
            server.wait_until_serving()
            assert "READY" in manager.next_state()
            lines = server.journal.read_text().splitlines()
            assert [line for line in lines if line.startswith("[")]
            assert all(line.startswith("[] ") for line in lines if line.startswith("["))
            assert server.stop() == 0

    def test_reloading(self, tmp_path, manager):
        with Supervised(tmp_path, "-w", "2", env=manager.environment) as server:
            server.wait_until_serving()
            ready = manager.next()
            server.signal(signal.SIGHUP)
            message = manager.next()
            assert message.pop("MONOTONIC_USEC").isdigit()
            assert message == {"RELOADING": "1", "STATUS": "reloading"}
            assert manager.next() == ready
            server.wait_for_line("reloaded")
            assert server.stop() == 0

    def test_a_reload_that_fails_ends_too(self, tmp_path, manager):
        settings = tmp_path / "trioserve.toml"
        settings.write_text("")
        with Supervised(tmp_path, env=manager.environment) as server:
            server.wait_until_serving()
            manager.next()
            settings.write_text("nonsense = 1\n")
            server.signal(signal.SIGHUP)
            assert "RELOADING" in manager.next()
            assert "READY" in manager.next()
            server.wait_for_line("not reloaded")
            assert server.stop() == 0

    def test_a_start_that_fails_is_never_ready(self, tmp_path, manager):
        environment = manager.environment | {"APP_AT_STARTUP": "raise OSError('no database')"}
        with Supervised(tmp_path, "-w", "2", env=environment) as server:
            assert server.wait() == 3
        assert "STOPPING" in manager.next(0)
        assert manager.next(0) == {}


class TestWatchdog:
    @WORKERS
    def test_it_is_fed(self, tmp_path, manager, workers):
        with Supervised(tmp_path, *workers, env=manager.environment_with_watchdog) as server:
            server.wait_until_serving()
            while "READY" not in manager.next():
                pass
            for _ in range(5):
                assert manager.next() == {"WATCHDOG": "1"}
            assert server.stop() == 0

    def test_a_blocked_loop_starves_it(self, tmp_path, manager):
        with Supervised(tmp_path, "-w", "0", env=manager.environment_with_watchdog) as server:
            url = server.wait_until_serving()
            with send_request(url, "/block/5"):
                wait_until(lambda: server.events("blocked"), "the loop is blocked")
                while manager.next(0):
                    pass
                assert manager.next(3 * WATCHDOG) == {}
                assert manager.next() == {"WATCHDOG": "1"}

    def test_a_place_without_a_worker_starves_it(self, tmp_path, manager):
        broken = tmp_path / "broken"
        fails = f"import pathlib\nif pathlib.Path({str(broken)!r}).exists(): raise OSError('broken')"
        environment = manager.environment_with_watchdog | {"APP_AT_IMPORT": fails}
        with Supervised(tmp_path, "-w", "2", env=environment) as server:
            server.wait_until_serving()
            victim, other = server.wait_for_workers(2)
            broken.touch()
            os.kill(victim, signal.SIGKILL)
            server.wait_for_line("did not start")
            while manager.next(0):
                pass
            assert manager.next(2 * WATCHDOG) == {}
            broken.unlink()
            assert manager.next() == {"WATCHDOG": "1"}
            assert server.stop() == 0
            assert other in server.events("shutdown")

    def test_that_of_another_process_is_not_fed(self, tmp_path, manager):
        environment = manager.environment_with_watchdog | {"WATCHDOG_PID": "1"}
        with Supervised(tmp_path, env=environment) as server:
            server.wait_until_serving()
            assert "READY" in manager.next()
            assert manager.next(2 * WATCHDOG) == {}
            assert server.stop() == 0


# -- sockets -------------------------------------------------------------------------------------------------------


class Activated(Supervised):
    """The command under the real `systemd-socket-activate`, with a TCP socket, and one at a path if there is one.

    The program starts it with the first connection. It passes sockets on that it has got itself, which is how the TCP
    socket can be on a free port.
    """

    def __init__(self, directory, *arguments, names="web", path=None):
        with socket.create_server(("127.0.0.1", 0)) as listening:
            self.port = listening.getsockname()[1]
            listen = f"-l {path}" if path else ""
            keep = f"-E APP_JOURNAL={directory / 'journal'} -E PYTHONPATH={ROOT}"
            activate = f"{require('systemd-socket-activate')} {listen} --fdname={names} {keep}"
            script = (
                f"exec 3<&{listening.fileno()}; "
                f'LISTEN_PID=$$ LISTEN_FDS=1 exec {activate} {sys.executable} -m trioserve "$@"'
            )
            self.command = ("bash", "-c", script, "bash")
            # Closed here at once; who connects then waits in the backlog of the socket that was handed on.
            super().__init__(directory, *arguments, bind=None, pass_fds=[listening.fileno()])

    def ask_first(self):
        """Start it; returns the URL of the TCP socket."""
        url = f"http://127.0.0.1:{self.port}"
        assert self.ask(url).isdigit()
        return url


@pytest.fixture
def files(tmp_path):
    """A certificate for localhost, and a context that trusts it."""
    authority = trustme.CA()
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(tmp_path / "both.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    return tmp_path / "both.pem", context


class TestActivation:
    @WORKERS
    def test_the_connection_that_starts_it_is_answered(self, tmp_path, workers):
        with Activated(tmp_path, *workers) as server:
            url = f"http://127.0.0.1:{server.port}"
            with send_request(url) as first:
                assert server.wait_until_serving() == url
                assert b"200 OK" in first.recv(65536)
            assert server.ask(url).isdigit()
            assert server.stop() == 0
        with pytest.raises(ConnectionRefusedError):
            open_socket(url)

    def test_several_sockets(self, tmp_path):
        path = tmp_path / "web.sock"
        with Activated(tmp_path, names="web:admin", path=path) as server:
            server.ask_first()
            assert server.ask(f"unix:{path}").isdigit()
            assert server.stop() == 0
        assert path.exists()  # systemd's, not ours

    def test_the_name_insecure_means_no_tls(self, tmp_path, files):
        certificate, context = files
        path = tmp_path / "web.sock"
        tls = ("--tls-certificate", str(certificate))
        with Activated(tmp_path, *tls, names="insecure:web", path=path) as server:
            server.ask_first()
            sock = open_socket(f"unix:{path}")
            with context.wrap_socket(sock, server_hostname="localhost") as secure:
                assert Http1Connection(secure).ask("/").isdigit()
            assert server.stop() == 0

    def test_binds_give_way_and_that_is_said(self, tmp_path):
        with Activated(tmp_path, "-b", "127.0.0.1:1") as server:
            server.ask_first()
            assert server.stop() == 0
        assert re.search(r"activated sockets are served.*127\.0\.0\.1:1", server.errors)

    def test_the_sockets_stay_over_a_reload(self, tmp_path):
        with Activated(tmp_path, "-w", "2") as server:
            url = server.ask_first()
            former = set(server.wait_for_workers(2))
            server.reload(2)
            server.wait_for_line("reloaded")
            wait_until(lambda: not former & set(server.processes()), "the old ones have gone")
            assert int(server.ask(url)) not in former
            assert server.stop() == 0

    def test_workers_and_programs_do_not_take_them_for_theirs(self, tmp_path):
        with Activated(tmp_path) as server:
            server.ask_first()
            [worker] = server.wait_for_workers(1)
            assert b"LISTEN_" not in Path(f"/proc/{worker}/environ").read_bytes()
            assert server.stop() == 0


# -- units ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def units(tmp_path):
    """Copies of our units whose program exists."""
    for unit in UNITS.iterdir():
        text = re.sub("^ExecStart=.*$", "ExecStart=/bin/true", unit.read_text(), flags=re.MULTILINE)
        (tmp_path / unit.name).write_text(text)
    return tmp_path


def test_systemd_has_nothing_to_say_against_our_units(units):
    program = require("systemd-analyze")
    files = sorted(units.glob("trioserve.*"))
    assert len(files) == 2
    done = subprocess.run([program, "verify", "--man=no", *files], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_times_of_the_unit_are_above_those_of_the_settings():
    config = load_config(ROOT / "config" / "production.toml", {}, {}, cwd=ROOT).config
    unit = dict(re.findall(r"^(\w+)=(.*)$", (UNITS / "trioserve.service").read_text(), re.MULTILINE))
    times = config.timeouts
    ends = times.drain_delay + times.graceful + times.cleanup_grace + times.lifespan_shutdown + 5
    assert int(unit["TimeoutStopSec"]) > ends
    assert int(unit["TimeoutStartSec"]) > config.process.startup
    assert int(unit["WatchdogSec"]) > config.process.heartbeat + config.process.startup
