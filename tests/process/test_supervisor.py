from __future__ import annotations

import os
import re
import resource
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.process.clients import Http1Connection, open_socket
from tests.process.supervised import Supervised, wait_until
from tests.server_process import clean_environment

WAIT_AT_IMPORT = (
    "import sys, threading; print('importing', file=sys.stderr, flush=True); threading.Event().wait()"
)
SPAWNED_AND_PRELOADED = pytest.mark.parametrize(
    "options", [(), ("--process-preload",)], ids=["spawned", "preloaded"]
)


def count_descriptors(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def find_zombies(parent):
    zombies = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit():
                state, ppid = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
                if state == "Z" and int(ppid) == parent:
                    zombies.append(int(entry.name))
    return zombies


def find_children(parent):
    return {int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()}


def is_free(url):
    host, _, port = url.rpartition("/")[2].partition(":")
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, int(port)))
        except OSError:
            return False
        return True


# -- the first start -----------------------------------------------------------------------------------------------


def test_the_first_lines_say_who_serves_where(tmp_path):
    with Supervised(tmp_path, "-w", "2") as server:
        server.wait_until_serving()
        first, second, *ready, last = server.lines
        assert re.search(rf"trioserve \S+, Python \S+, supervisor {server.process.pid}, workers: 2$", first)
        assert second.endswith("configuration: no file")
        assert all(re.search(r"worker [12] \(\d+\) is ready$", line) for line in ready)
        assert len(ready) == 2
        assert " serving " in last
        assert server.stop() == 0
    assert server.errors.count(" serving ") == 1
    assert server.lines[-1].endswith("stopped")


@SPAWNED_AND_PRELOADED
def test_an_application_that_cannot_be_loaded_ends_all_with_3(tmp_path, options):
    with Supervised(tmp_path, "-w", "2", *options, env={"APP_AT_IMPORT": "1 / 0"}) as server:
        assert server.wait() == 3
        assert server.processes() == set()
    assert "ZeroDivisionError: division by zero" in server.errors
    assert "is ready" not in server.errors
    assert "next attempt" not in server.errors


@SPAWNED_AND_PRELOADED
def test_an_application_that_fails_to_start_ends_all_with_3(tmp_path, options):
    with Supervised(tmp_path, "-w", "2", *options, env={"APP_AT_STARTUP": "1 / 0"}) as server:
        assert server.wait() == 3
    assert "ZeroDivisionError: division by zero" in server.errors


@SPAWNED_AND_PRELOADED
def test_a_setting_that_a_worker_finds_unusable_is_one_line(tmp_path, options):
    (tmp_path / "bad.env").write_text("A=1\nB\n")
    with Supervised(tmp_path, "-w", "3", *options, "--env-file", "bad.env") as server:
        assert server.wait() == 2
    *introduction, error = server.lines
    assert error == f"trioserve: error: {tmp_path}/bad.env: line 2: expected NAME=value"
    assert len(introduction) == 2
    assert "workers: 3" in introduction[0]
    assert "configuration: no file" in introduction[1]


@SPAWNED_AND_PRELOADED
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_during_the_start_exits_0(tmp_path, options, number):
    with Supervised(tmp_path, *options, env={"APP_AT_IMPORT": WAIT_AT_IMPORT}) as server:
        server.wait_for_line("configuration: no file|^importing$")
        server.wait_for_line("configuration: no file|^importing$")
        server.signal(number)
        assert server.wait() == 0
        assert server.processes() == set()
    assert f"supervisor {server.process.pid}, workers: 1" in server.errors
    assert "Traceback" not in server.errors
    assert "killed" not in server.errors


def test_the_very_first_moment_can_be_stopped(tmp_path):
    with Supervised(tmp_path, "-w", "2") as server:
        wait_until(lambda: find_children(server.process.pid), "a worker was started")
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert server.processes() == set()
    assert "Traceback" not in server.errors


@SPAWNED_AND_PRELOADED
def test_a_worker_that_is_killed_while_it_starts_is_started_again(tmp_path, options):
    once = f"import os; p = {str(tmp_path / 'once')!r}\nif not os.path.exists(p): open(p, 'w'); os.kill(os.getpid(), 9)"
    with Supervised(tmp_path, *options, env={"APP_AT_IMPORT": once}) as server:
        url = server.wait_until_serving()
        assert "ended before it was ready (SIGKILL)" in server.errors
        assert int(server.ask(url)) == server.ready[0]
        assert server.stop() == 0


# -- the number of workers -----------------------------------------------------------------------------------------


def test_one_more_and_one_fewer(tmp_path):
    with Supervised(tmp_path, "-w", "1") as server:
        server.wait_until_serving()
        server.signal(signal.SIGTTIN)
        server.wait_for_workers(2)
        server.signal(signal.SIGTTOU)
        server.wait_for_line(rf"worker 2 \({server.ready[1]}\) has ended$")
        assert server.processes() == {server.ready[0]}
        server.signal(signal.SIGTTOU)  # one always stays
        server.signal(signal.SIGUSR1)
        server.wait_for_line("log files were opened again")
        assert server.processes() == {server.ready[0]}
        server.signal(signal.SIGTTIN)
        server.wait_for_workers(3)
        assert server.stop() == 0


def test_a_reload_keeps_the_changed_number_unless_the_file_changes_it(tmp_path):
    file = tmp_path / "trioserve.toml"
    file.write_text("[process]\nworkers = 1\n")
    with Supervised(tmp_path) as server:
        server.wait_until_serving()
        server.signal(signal.SIGTTIN)
        server.wait_for_workers(2)
        server.reload(2)
        server.wait_for_line("reloaded")
        assert len(server.ready) == 4
        file.write_text("[process]\nworkers = 3\n")
        server.reload(3)
        wait_until(lambda: server.processes() == set(server.ready[-3:]), "three workers are left")
        file.write_text("[process]\nworkers = 1\n")
        server.reload(3)
        wait_until(lambda: len(server.processes()) == 1, "one worker is left")
        assert server.stop() == 0


# -- reloading -----------------------------------------------------------------------------------------------------


@SPAWNED_AND_PRELOADED
def test_fifty_reloads_in_a_row_are_two_at_most(tmp_path, options):
    with Supervised(tmp_path, *options) as server:
        server.wait_until_serving()
        for _ in range(50):
            server.signal(signal.SIGHUP)
        server.wait_for_line("reloaded")
        server.signal(signal.SIGQUIT)
        server.wait_for_line("tasks of the supervisor")
        assert server.stop() == 0
        assert 1 <= server.errors.count("info: reloading") <= 2
        assert 2 <= len(server.ready) <= 3


def test_a_reload_changes_settings_of_workers_and_of_the_log(tmp_path):
    file = tmp_path / "trioserve.toml"
    file.write_text("")
    with Supervised(tmp_path) as server:
        server.wait_until_serving()
        file.write_text('[logging]\nfile = "error.log"\n[headers]\nextra = ["x-new: yes"]\n')
        server.signal(signal.SIGHUP)
        wait_until(lambda: "reloaded" in read(tmp_path / "error.log"), "it is reloaded")
        assert server.stop() == 0
    assert "stopped" in read(tmp_path / "error.log")
    assert "stopped" not in server.errors


def read(file):
    return file.read_text() if file.exists() else ""


REFUSED = {
    "a key that is unknown": ("[process]\nworker = 2\n", "unknown key, did you mean workers"),
    "no workers": ("[process]\nworkers = 0\n", "serving without workers needs a restart"),
    "a log that cannot be written": ('[logging]\nfile = "none/x.log"\n', "No such file or directory"),
    "an address that is not ours": ('bind = ["192.0.2.1:1"]\n', "cannot listen on 192.0.2.1:1"),
    "a certificate that is none": ('[tls]\ncertificate = "bad.pem"\n', "[tls] certificate"),
    "an env_file with a mistake": ('env_file = "bad.env"\n', "bad.env: line 1: expected NAME=value"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_reload_that_is_refused_changes_nothing_and_says_why(tmp_path, name):
    text, reason = REFUSED[name]
    (tmp_path / "bad.pem").write_text("-----BEGIN CERTIFICATE-----\n-----BEGIN PRIVATE KEY-----\n")
    (tmp_path / "bad.env").write_text("oh\n")
    file = tmp_path / "trioserve.toml"
    file.write_text("bind = ['127.0.0.1:0']\n")
    with Supervised(tmp_path, bind=None) as server:
        url = server.wait_until_serving()
        before = count_descriptors(server.process.pid)
        for _ in range(2):
            file.write_text(text)
            server.signal(signal.SIGHUP)
            server.wait_for_line("error: not reloaded")
            assert reason in server.errors
            assert int(server.ask(url)) == server.ready[-1]
            assert len(server.ready) == 1
        file.write_text("bind = ['127.0.0.1:0']\n")
        server.reload(1)
        server.wait_for_line("reloaded")
        wait_until(lambda: count_descriptors(server.process.pid) == before, "nothing is left open")
        assert int(server.ask(url)) == server.ready[-1]
        assert server.stop() == 0


@SPAWNED_AND_PRELOADED
def test_new_code_that_fails_leaves_the_old_one_serving_and_the_next_reload_recovers(tmp_path, options):
    (tmp_path / "code.py").write_text("")
    env = {"APP_AT_IMPORT": f"exec(open({str(tmp_path / 'code.py')!r}).read())"}
    with Supervised(tmp_path, "-w", "2", *options, env=env) as server:
        url = server.wait_until_serving()
        old = set(server.wait_for_workers(2))
        (tmp_path / "code.py").write_text("raise LookupError('broken on disk')")
        server.signal(signal.SIGHUP)
        server.wait_for_line("LookupError: broken on disk")
        server.wait_for_line("not reloaded: the new worker did not start, and the old ones stay")
        assert int(server.ask(url)) in old
        assert len(server.ready) == 2
        (tmp_path / "code.py").write_text("")
        server.reload(2)
        server.wait_for_line("info: reloaded")
        wait_until(lambda: not old & set(server.processes()), "the old ones have gone")
        assert int(server.ask(url)) in set(server.ready[2:])
        assert server.stop() == 0


def test_a_reload_that_fails_half_way_sends_the_others_back(tmp_path):
    file = tmp_path / "trioserve.toml"
    file.write_text('[headers]\nextra = ["x: old"]\n')
    second = f"""
import os
p = {str(tmp_path / "seen")!r}
open(p, "a").write("x")
if os.path.getsize(p) == 4: raise LookupError("the second new worker")
"""
    with Supervised(tmp_path, "-w", "2", env={"APP_AT_IMPORT": second}) as server:
        url = server.wait_until_serving()
        file.write_text('[headers]\nextra = ["x: new"]\n')
        server.signal(signal.SIGHUP)
        server.wait_for_line("not reloaded")
        server.wait_for_workers(4)
        wait_until(lambda: len(server.processes()) == 2, "the new one has gone")
        for _ in range(10):
            assert b"x: old" in head(url)
        assert server.stop() == 0


def head(url):
    host, _, port = url.rpartition("/")[2].partition(":")
    with socket.create_connection((host, int(port)), 20) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        received = b""
        while data := sock.recv(65536):
            received += data
    return received.lower()


def test_binds_come_and_go_with_a_reload(tmp_path):
    file = tmp_path / "trioserve.toml"
    file.write_text("bind = ['127.0.0.1:0', 'unix:old.sock']\n")
    with Supervised(tmp_path, bind=None) as server:
        url = server.wait_until_serving()
        assert (tmp_path / "old.sock").exists()
        file.write_text("bind = ['unix:new.sock', '127.0.0.1:0']\n")
        server.signal(signal.SIGHUP)
        server.wait_for_line("serving .* on http.unix:.*new.sock")
        server.wait_for_line(f"serving .* on {url}$")
        assert (tmp_path / "new.sock").exists()
        assert not (tmp_path / "old.sock").exists()
        wait_until(lambda: server.ready[0] not in server.processes(), "the old one has gone")
        assert int(server.ask(url)) == server.ready[-1]
        assert server.stop() == 0
    assert not (tmp_path / "new.sock").exists()


def test_what_needs_a_restart_is_said(tmp_path):
    file = tmp_path / "trioserve.toml"
    file.write_text("[unix]\nmode = '600'\n")
    with Supervised(tmp_path) as server:
        server.wait_until_serving()
        file.write_text("[unix]\nmode = '660'\n[process]\npid_file = 'web.pid'\n")
        server.signal(signal.SIGHUP)
        server.wait_for_line(r"warning: \[process\] pid_file has changed, which needs a restart")
        server.wait_for_line(r"warning: \[unix\] mode has changed, which needs a restart")
        assert server.stop() == 0
    assert not (tmp_path / "web.pid").exists()


@SPAWNED_AND_PRELOADED
def test_a_stop_during_a_reload_ends_all(tmp_path, options):
    (tmp_path / "code.py").write_text("")
    env = {"APP_AT_IMPORT": f"exec(open({str(tmp_path / 'code.py')!r}).read())"}
    with Supervised(tmp_path, "-w", "2", *options, env=env) as server:
        url = server.wait_until_serving()
        (tmp_path / "code.py").write_text(WAIT_AT_IMPORT)
        server.signal(signal.SIGHUP)
        server.wait_for_line("^importing$")
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert server.processes() == set()
    assert is_free(url)
    assert "Traceback" not in server.errors


def test_a_reload_during_a_stop_is_not_heard(tmp_path):
    with Supervised(tmp_path) as server:
        url = server.wait_until_serving()
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as sock:
            sock.sendall(b"GET /slow/0.5 HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"begun" in sock.recv(65536) + sock.recv(65536)
            server.signal(signal.SIGTERM)
            server.wait_for_line("stopping; workers")
            for number in (signal.SIGHUP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGUSR1):
                server.signal(number)
            while sock.recv(65536):
                pass
        assert server.wait() == 0
    assert len(server.ready) == 1
    assert "reloading" not in server.errors


# -- what happens to workers ---------------------------------------------------------------------------------------


@SPAWNED_AND_PRELOADED
def test_many_replacements_leave_nothing_behind(tmp_path, options):
    with Supervised(tmp_path, "-w", "4", *options) as server:
        url = server.wait_until_serving()
        wait_until(lambda: int(server.ask(url)), "it serves")
        before = count_descriptors(server.process.pid)
        for number in range(12):
            if number % 3 == 2:
                server.reload(4)
            else:
                total = len(server.wait_for_workers(4)) + 4
                for pid in server.ready[-4:]:
                    os.kill(pid, signal.SIGTERM if number % 3 else signal.SIGKILL)
                server.wait_for_workers(total)
        wait_until(lambda: len(server.processes()) == 4 + len(options), "the former ones have gone")
        wait_until(lambda: find_zombies(server.process.pid) == [], "the former ones have been reaped")
        wait_until(lambda: count_descriptors(server.process.pid) == before, "all descriptors are closed")
        assert server.stop() == 0


@contextmanager
def answering(url):
    """A worker has begun an answer that takes long."""
    with open_socket(url) as sock:
        connection = Http1Connection(sock)
        connection.send("/slow/30")
        connection.wait_for_begin()
        yield


def test_a_worker_that_is_told_to_stop_has_a_successor_before_it_has_ended(tmp_path):
    with Supervised(tmp_path) as server:
        url = server.wait_until_serving()
        with answering(url):
            os.kill(server.ready[0], signal.SIGTERM)
            server.wait_for_line(rf"worker 1 \({server.ready[0]}\) is to be replaced: it was told to stop")
            server.wait_for_workers(2)
            assert int(server.ask(url)) == server.ready[1]
        assert server.stop() == 0


def test_a_worker_that_is_killed_while_it_drains_is_not_missed(tmp_path):
    with Supervised(tmp_path) as server:
        url = server.wait_until_serving()
        with answering(url):
            server.reload(1)
            os.kill(server.ready[0], signal.SIGKILL)
            server.wait_for_line(rf"worker 1 \({server.ready[0]}\) has ended \(SIGKILL\)")
        assert int(server.ask(url)) == server.ready[1]
        assert len(server.ready) == 2
        assert server.stop() == 0


@SPAWNED_AND_PRELOADED
def test_a_stopped_process_is_replaced_without_stacks_and_killed(tmp_path, options):
    with Supervised(tmp_path, "--process-heartbeat", "2", *options) as server:
        url = server.wait_until_serving()
        os.kill(server.ready[0], signal.SIGSTOP)
        server.wait_for_line("has not run its event loop for 2 s")
        server.wait_for_line("cannot be had; it may have been stopped")
        server.wait_for_workers(2)
        server.wait_for_line(rf"worker 1 \({server.ready[0]}\) has ended \(SIGKILL\)")
        assert int(server.ask(url)) == server.ready[1]
        assert server.stop() == 0


def test_a_worker_that_closes_its_control_socket_is_replaced(tmp_path):
    close = f"""
import os, socket, threading
p = {str(tmp_path / "once")!r}
def close(os=os, socket=socket):
    for fd in range(3, 100):
        try:
            if socket.socket(fileno=os.dup(fd)).family == socket.AF_UNIX:
                os.dup2(os.open("/dev/null", os.O_RDWR), fd)
        except OSError:
            pass
if not os.path.exists(p):
    open(p, "w")
    threading.Timer(1.0, close).start()
"""
    with Supervised(tmp_path, env={"APP_AT_STARTUP": close}) as server:
        url = server.wait_until_serving()
        server.wait_for_line("has closed its control socket, and is told to end")
        server.wait_for_workers(2)
        assert int(server.ask(url)) == server.ready[1]
        assert server.stop() == 0


def test_children_of_the_application_inherit_nothing(tmp_path):
    child = "import subprocess; child = subprocess.Popen(['sleep', '9'], close_fds=False, stderr=subprocess.DEVNULL)"
    with Supervised(tmp_path, env={"APP_AT_STARTUP": child}) as server:
        url = server.wait_until_serving()
        (worker,) = server.ready
        (child,) = find_children(worker)
        assert sorted(os.listdir(f"/proc/{child}/fd")) == ["0", "1", "2"]
        os.kill(worker, signal.SIGKILL)
        server.wait_for_workers(2)
        assert int(server.ask(url)) == server.ready[1]
        server.signal(signal.SIGTERM)
        assert server.process.wait(20) == 0
        assert is_free(url)


# -- the supervisor's own things -----------------------------------------------------------------------------------


def test_pid_file(tmp_path):
    with Supervised(tmp_path, "--process-pid-file", "web.pid") as server:
        server.wait_until_serving()
        assert (tmp_path / "web.pid").read_text() == f"{server.process.pid}\n"
        with Supervised(tmp_path, "--process-pid-file", "web.pid") as second:
            assert second.wait() == 2
        assert second.lines == [
            f"trioserve: error: [process] pid_file: {tmp_path}/web.pid is held by process {server.process.pid}"
        ]
        assert server.stop() == 0
    assert not (tmp_path / "web.pid").exists()


def test_pid_file_of_a_killed_supervisor_is_taken_over(tmp_path):
    with Supervised(tmp_path, "--process-pid-file", "web.pid") as first:
        first.wait_until_serving()
        first.signal(signal.SIGKILL)
        with Supervised(tmp_path, "--process-pid-file", "web.pid") as second:
            second.wait_until_serving()
            assert (tmp_path / "web.pid").read_text() == f"{second.process.pid}\n"
            assert second.stop() == 0


@pytest.mark.parametrize("path", ["/dev/full", "none/web.pid"])
def test_pid_file_that_cannot_be_written_exits_2(tmp_path, path):
    with Supervised(tmp_path, "--process-pid-file", path) as server:
        assert server.wait() == 2
    assert len(server.lines) == 1
    assert "[process] pid_file: " in server.errors


ACTIVATE = """
import os, socket, sys
first, second = (socket.create_server(("127.0.0.1", 0)) for _ in range(2))
print(first.getsockname()[1], second.getsockname()[1], flush=True)
os.dup2(first.detach(), 13); os.dup2(second.detach(), 14)
os.dup2(13, 3); os.dup2(14, 4)
os.closerange(5, 20)
environ = os.environ | {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "2", "LISTEN_FDNAMES": "web:more"}
os.execve(sys.executable, [sys.executable, "-m", "trioserve", *sys.argv[1:]], environ)
"""


@pytest.mark.parametrize("workers", ["0", "1"])
def test_activated_sockets_are_served(tmp_path, workers):
    (tmp_path / "main.py").write_text(
        "import os\nasync def app(scope, receive, send):\n"
        "    assert scope['type'] == 'http'\n"
        "    body = str([name for name in os.environ if name.startswith('LISTEN')]).encode()\n"
        "    head = [(b'content-length', str(len(body)).encode())]\n"
        "    await send({'type': 'http.response.start', 'status': 200, 'headers': head})\n"
        "    await send({'type': 'http.response.body', 'body': body})\n"
    )
    command = [sys.executable, "-c", ACTIVATE, "main:app", "-w", workers, "--logging-access", "off"]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": tmp_path}
    with subprocess.Popen(command, env=clean_environment(), **options) as process:
        try:
            ports = process.stdout.readline().split()
            for port in ports:
                assert head(f"http://127.0.0.1:{port}").endswith(b"\r\n\r\n[]")
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        finally:
            process.kill()


def test_without_descriptors_it_waits_for_better_times(tmp_path):
    """The supervisor has what it needs to live, and nothing for a worker."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    def starve():
        resource.setrlimit(resource.RLIMIT_NOFILE, (11, hard))

    with Supervised(tmp_path, preexec_fn=starve) as server:
        server.wait_for_line(r"worker 1 cannot be started.*Too many open files")
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (256, hard))
        url = server.wait_until_serving()
        assert int(server.ask(url)) == server.ready[0]
        assert server.stop() == 0
