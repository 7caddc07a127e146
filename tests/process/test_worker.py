from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from contextlib import suppress
from pathlib import Path

import pytest
import trustme

from tests.server_process import PATIENCE, ServerProcess, clean_environment, get, read_all, send_request

OURS = f"{os.sep}trioserve{os.sep}"

APP = """
    import gc, os, sys
    import trio

    running = 0
    all_there = trio.Event()

    def tell(text):
        print(text, file=sys.stderr, flush=True)

    async def respond(send, body):
        length = str(len(body)).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
        await send({"type": "http.response.body", "body": body})

    async def lifespan(receive, send):
        await receive()
        tell("lifespan startup")
        await send({"type": "lifespan.startup.complete"})
        await receive()
        tell("lifespan shutdown")
        await send({"type": "lifespan.shutdown.complete"})

    async def app(scope, receive, send):
        global running
        if scope["type"] == "lifespan":
            return await lifespan(receive, send)
        path = scope["path"]
        if path == "/second":
            running += 1
            if running == 50:
                all_there.set()
            await trio.sleep(1)
            await respond(send, b"done")
        elif path == "/all-there":
            await all_there.wait()
            await respond(send, b"50")
        elif path.startswith("/endless"):
            if path == "/endless/head":
                await send({"type": "http.response.start", "status": 200, "headers": []})
                await send({"type": "http.response.body", "body": b"part", "more_body": True})
            tell("endless began")
            try:
                await trio.sleep_forever()
            finally:
                tell("endless cleaned up")
        elif path == "/print":
            print("into the buffer of stdout")
            await respond(send, b"printed")
        elif path == "/frozen":
            await respond(send, str(gc.get_freeze_count()).encode())
        elif path == "/exit":
            sys.exit(5)
        elif path == "/environment":
            await respond(send, os.environ.get("GREETING", "-").encode())
        else:
            await respond(send, b"hello")
"""


@pytest.fixture
def directory(tmp_path):
    write_app(tmp_path, APP)
    return tmp_path


def write_app(directory, source):
    (directory / "main.py").write_text(textwrap.dedent(source), encoding="utf-8")


def read_lines(file):
    return file.read_text(encoding="utf-8").splitlines()


def read_until_cut(sock):
    received = b""
    with sock, suppress(ConnectionResetError):
        while data := sock.recv(65536):
            received += data
    return received


def serve(directory, *arguments, app="main:app", **options):
    return ServerProcess(directory, app, "--bind", "127.0.0.1:0", "--workers", "0", *arguments, **options)


# -- exit codes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop_signal_exits_0(directory, number):
    with serve(directory) as server:
        assert get(server.wait_until_serving()) == (200, b"hello")
        server.signal(number)
        assert server.wait() == 0
    assert "Traceback" not in server.errors
    assert "lifespan shutdown" in server.lines
    assert server.lines[-1].endswith("stopped")


def test_startup_lines(directory):
    with serve(directory, "--http1-parser", "h11") as server:
        server.wait_until_serving()
        assert f"process {server.process.pid}, HTTP/1.1 parser h11" in server.lines[1]
        assert "configuration: no file" in server.lines[2]
        assert server.stop() == 0


APPLICATION_MISTAKES = [
    (
        "import does_not_exist_at_all",
        "main:app",
        "ModuleNotFoundError: No module named 'does_not_exist_at_all'",
    ),
    ("app = 1 / 0", "main:app", "ZeroDivisionError: division by zero"),
    ("import sys; sys.exit(0)", "main:app", "importing 'main' failed: SystemExit: 0"),
    ("def app(:", "main:app", "SyntaxError"),
    ("app = 1", "mian:app", "no module 'mian' in {directory} or on the import path; did you mean 'main'?"),
    ("app = 1", "main:apps", "no attribute 'apps' for 'main:apps'; did you mean 'app'?"),
    ("app = 1", "main:app", "'main:app' gives an object of type int, which cannot be called"),
]


@pytest.mark.parametrize(("source", "target", "reason"), APPLICATION_MISTAKES)
def test_application_that_cannot_be_loaded_exits_3(tmp_path, source, target, reason):
    write_app(tmp_path, source)
    with serve(tmp_path, app=target) as server:
        assert server.wait() == 3
    assert reason.format(directory=tmp_path) in server.errors
    assert OURS not in server.errors


def test_check_loads_the_application(tmp_path):
    write_app(tmp_path, "app = 1 / 0")
    with serve(tmp_path, "--check") as server:
        assert server.wait() == 3
    assert "ZeroDivisionError: division by zero" in server.errors
    assert OURS not in server.errors


START_FAILURES = {
    "lifespan raises": """
        async def app(scope, receive, send):
            await receive()
            raise LookupError("no database")
    """,
    "lifespan says failed": """
        async def app(scope, receive, send):
            await receive()
            await send({"type": "lifespan.startup.failed", "message": "no database"})
    """,
    "lifespan says failed with a traceback, as Starlette does": """
        import traceback
        async def app(scope, receive, send):
            await receive()
            try:
                raise LookupError("no database")
            except LookupError:
                await send({"type": "lifespan.startup.failed", "message": traceback.format_exc()})
                raise
    """,
    "factory raises": """
        def app():
            raise LookupError("no database")
    """,
    "context manager raises": """
        from contextlib import asynccontextmanager
        @asynccontextmanager
        async def app():
            raise LookupError("no database")
            yield
    """,
}


@pytest.mark.parametrize("name", START_FAILURES)
def test_application_that_fails_to_start_exits_3(tmp_path, name):
    write_app(tmp_path, START_FAILURES[name])
    with serve(tmp_path, *([] if name.startswith("lifespan") else ["--factory"])) as server:
        assert server.wait() == 3
    assert "no database" in server.errors
    assert OURS not in server.errors
    assert "\\x0a" not in server.errors
    assert " serving " not in server.errors
    if name != "lifespan says failed":
        assert "  LookupError: no database" in server.lines
        assert any(line.startswith('    File "') and "main.py" in line for line in server.lines)


def test_factory_that_is_never_ready_exits_3(tmp_path):
    write_app(tmp_path, "import trio\nasync def app():\n    await trio.sleep_forever()\n")
    with serve(tmp_path, "--factory", "--timeouts-lifespan-startup", "50ms") as server:
        assert server.wait() == 3
    assert "the application was not ready within 0.05 s" in server.errors


def test_startup_timeout_ends_with_the_startup(directory):
    with serve(directory, "--timeouts-lifespan-startup", "900ms") as server:
        assert get(server.wait_until_serving(), "/second") == (200, b"done")  # after a second
        assert server.stop() == 0


def test_lifespan_that_dies_while_serving_exits_1(tmp_path):
    source = """
        async def app(scope, receive, send):
            await receive()
            await send({"type": "lifespan.startup.complete"})
            raise LookupError("connection pool lost")
    """
    write_app(tmp_path, source)
    with serve(tmp_path) as server:
        assert server.wait() == 1
    assert "LookupError: connection pool lost" in server.errors
    assert "crashed" not in server.errors


def test_pid_file_of_a_process_that_serves_alone(directory):
    file = directory / "web.pid"
    with serve(directory, "--process-pid-file", str(file)) as server:
        server.wait_until_serving()
        assert int(file.read_text()) == server.process.pid
        with serve(directory, "--process-pid-file", str(file)) as second:
            assert second.wait() == 2
        assert f"is held by process {server.process.pid}" in second.errors
        assert server.stop() == 0
    assert not file.exists()


def test_application_that_exits_in_a_request_is_a_crash(directory):
    with serve(directory) as server:
        url = server.wait_until_serving()
        read_all(send_request(url, "/exit"))
        assert server.wait() == 1
    assert "the server has crashed" in server.errors
    assert "SystemExit: 5" in server.errors


def test_address_in_use_exits_2(directory):
    with serve(directory) as first:
        address = first.wait_until_serving().removeprefix("http://")
        with ServerProcess(directory, "main:app", "--bind", address) as second:
            assert second.wait() == 2
        assert second.lines == [
            f"trioserve: error: cannot listen on {address}: the address is already in use"
        ]
        assert get(f"http://{address}") == (200, b"hello")
        assert first.stop() == 0


UNUSABLE = [
    (
        ["--logging-file", "none/error.log"],
        "[logging] file: {directory}/none/error.log: No such file or directory",
    ),
    (["--logging-access", "none/access.log"], "[logging] access: {directory}/none/access.log: No such file"),
    (
        ["--logging-access-format", "%(zz)s"],
        "[logging] access_format: access log format: unknown atom %(zz)s",
    ),
    (["--logging-config", "main.py"], "[logging] config: {directory}/main.py: "),
    (["--env-file", "bad.env"], "{directory}/bad.env: line 2: expected NAME=value"),
    (["--unix-user", "nobody-of-this-name", "--bind", "unix:x.sock"], "[unix] user: no user"),
    (["--tls-certificate", "bad.pem"], "[tls] certificate: "),
    (["--tls-certificate", "bad.pem", "--check"], "[tls] certificate: "),
    (["--bind", "fd:77"], "cannot listen on fd:77: descriptor 77 is not open"),
    (["--bind", "unix:main.py"], "main.py: the path exists and is not a socket"),
]


@pytest.mark.parametrize(("arguments", "reason"), UNUSABLE)
def test_what_cannot_be_used_exits_2_with_one_line(directory, arguments, reason):
    (directory / "bad.env").write_text("A=1\nB\n", encoding="utf-8")
    (directory / "bad.pem").write_text("-----BEGIN CERTIFICATE-----\n-----BEGIN PRIVATE KEY-----\n")
    with serve(directory, *arguments) as server:
        assert server.wait() == 2
    assert len(server.lines) == 1
    assert server.errors.startswith("trioserve: error: ")
    assert reason.format(directory=directory) in server.errors


def test_bind_error_is_in_the_log_file_too(directory):
    with serve(directory, "--bind", "fd:77", "--logging-file", "error.log") as server:
        assert server.wait() == 2
    assert "critical: cannot listen on fd:77" in (directory / "error.log").read_text()
    assert len(server.lines) == 1


def test_objects_of_the_start_are_hidden_from_the_collector(directory):
    with serve(directory) as server:
        status, count = get(server.wait_until_serving(), "/frozen")
        assert status == 200
        assert int(count) > 10_000
        assert server.stop() == 0


# -- stopping ------------------------------------------------------------------------------------------------------


def test_requests_in_flight_complete_when_stopped(directory):
    with serve(directory) as server:
        url = server.wait_until_serving()
        requests = [send_request(url, "/second") for _ in range(50)]
        assert get(url, "/all-there") == (200, b"50")
        server.signal(signal.SIGTERM)
        answers = [read_all(sock) for sock in requests]
        assert server.wait() == 0
    assert [answer[-4:] for answer in answers] == [b"done"] * 50
    assert "lifespan shutdown" in server.lines


def test_request_that_never_ends_is_cancelled_and_answered(directory):
    with serve(directory, "--timeouts-graceful", "1") as server:
        url = server.wait_until_serving()
        without_head, with_head = send_request(url, "/endless"), send_request(url, "/endless/head")
        for _ in range(2):
            server.wait_for_line("endless began")
        server.signal(signal.SIGTERM)
        answer, cut_short = read_all(without_head), read_until_cut(with_head)
        assert server.wait() == 0
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert cut_short.startswith(b"HTTP/1.1 200 ")
    assert b"part" in cut_short
    assert not cut_short.endswith(b"0\r\n\r\n")
    assert server.lines.count("endless cleaned up") == 2
    assert "lifespan shutdown" in server.lines
    assert server.lines.index("endless cleaned up") < server.lines.index("lifespan shutdown")


def test_second_signal_stops_now(directory):
    with serve(directory, "--timeouts-graceful", "0") as server:  # no limit: only the second signal ends it
        url = server.wait_until_serving()
        request = send_request(url, "/endless")
        server.wait_for_line("endless began")
        server.signal(signal.SIGTERM)
        server.wait_for_line("stopping; running requests, now 1, may end$")
        server.signal(signal.SIGINT)
        assert read_all(request).startswith(b"HTTP/1.1 503 ")
        assert server.wait() == 0
    assert "endless cleaned up" in server.lines
    assert "lifespan shutdown" in server.lines
    assert "Traceback" not in server.errors


def test_second_signal_ends_a_lifespan_that_does_not_shut_down(tmp_path):
    source = """
        import sys, trio
        async def app(scope, receive, send):
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            print("shutting down", file=sys.stderr, flush=True)
            await trio.sleep_forever()
    """
    write_app(tmp_path, source)
    with serve(tmp_path, "--timeouts-lifespan-shutdown", "0") as server:
        server.wait_until_serving()
        server.signal(signal.SIGTERM)
        server.wait_for_line("^shutting down$")
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    assert "the application failed to shut down in time" in server.errors


SLOW_STARTS = {
    "import": (
        "import sys, threading; print('waiting', file=sys.stderr, flush=True); threading.Event().wait()",
        (),
    ),
    "lifespan": (
        """
        import sys, trio
        async def app(scope, receive, send):
            await receive()
            print("waiting", file=sys.stderr, flush=True)
            await trio.sleep_forever()
        """,
        (),
    ),
    "factory": (
        """
        import sys, trio
        async def app():
            print("waiting", file=sys.stderr, flush=True)
            await trio.sleep_forever()
        """,
        ("--factory",),
    ),
}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("name", SLOW_STARTS)
def test_stop_signal_during_a_slow_start_exits_0(tmp_path, name, number):
    source, arguments = SLOW_STARTS[name]
    write_app(tmp_path, source)
    with serve(tmp_path, *arguments) as server:
        server.wait_for_line("^waiting$")
        server.signal(number)
        assert server.wait() == 0
    assert "Traceback" not in server.errors
    assert " serving " not in server.errors


CONTEXT_MANAGER = """
    import sys
    from contextlib import asynccontextmanager
    import trio

    @asynccontextmanager
    async def app():
        try:
            yield hello
        finally:
            print("closing", file=sys.stderr, flush=True)
            await CLOSE
            print("closed", file=sys.stderr, flush=True)

    async def hello(scope, receive, send):
        raise NotImplementedError
"""


def test_context_manager_encloses_the_serving(tmp_path):
    write_app(tmp_path, CONTEXT_MANAGER.replace("CLOSE", "trio.lowlevel.checkpoint()"))
    with serve(tmp_path, "--factory") as server:
        server.wait_until_serving()
        assert server.stop() == 0
    assert server.lines[-3:-1] == ["closing", "closed"]


def test_context_manager_that_never_closes_is_cancelled(tmp_path):
    write_app(tmp_path, CONTEXT_MANAGER.replace("CLOSE", "trio.sleep_forever()"))
    with serve(tmp_path, "--factory", "--timeouts-lifespan-shutdown", "50ms") as server:
        server.wait_until_serving()
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    assert "closed" not in server.lines


def test_second_signal_ends_a_context_manager_that_does_not_close(tmp_path):
    write_app(tmp_path, CONTEXT_MANAGER.replace("CLOSE", "trio.sleep_forever()"))
    with serve(tmp_path, "--factory", "--timeouts-lifespan-shutdown", "0") as server:
        server.wait_until_serving()
        server.signal(signal.SIGTERM)
        server.wait_for_line("^closing$")
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    assert "closed" not in server.lines


def test_context_manager_that_crashes_exits_1(tmp_path):
    source = """
        from contextlib import asynccontextmanager
        import trio

        async def fail():
            raise LookupError("background task")

        @asynccontextmanager
        async def app():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(fail)
                yield hello

        async def hello(scope, receive, send):
            raise NotImplementedError
    """
    write_app(tmp_path, source)
    with serve(tmp_path, "--factory") as server:
        assert server.wait() == 1
    assert "the server has crashed" in server.errors
    assert "LookupError: background task" in server.errors


# -- other signals -------------------------------------------------------------------------------------------------


def test_usr1_reopens_the_access_log(directory):
    with serve(directory, "--logging-access", "access.log") as server:
        url = server.wait_until_serving()
        assert get(url, "/before") == (200, b"hello")
        (directory / "access.log").rename(directory / "access.log.1")
        server.signal(signal.SIGUSR1)
        server.wait_for_line("log files were opened again")
        assert get(url, "/after") == (200, b"hello")
        assert server.stop() == 0
    assert [line.split()[6] for line in read_lines(directory / "access.log.1")] == ["/before"]
    assert [line.split()[6] for line in read_lines(directory / "access.log")] == ["/after"]


def test_usr1_reopens_the_error_log(directory):
    with serve(directory, "--logging-file", "error.log") as server:
        server.wait_for_line("^lifespan startup$")
        (directory / "error.log").rename(directory / "error.log.1")
        server.signal(signal.SIGUSR1)
        assert server.stop() == 0
    assert server.lines == ["lifespan startup", "lifespan shutdown"]
    assert any("log files were opened again" in line for line in read_lines(directory / "error.log"))
    assert "stopped" in read_lines(directory / "error.log")[-1]
    assert not any("stop" in line for line in read_lines(directory / "error.log.1"))


def test_quit_writes_the_task_tree_and_goes_on(directory):
    with serve(directory) as server:
        url = server.wait_until_serving()
        request = send_request(url, "/endless")
        server.wait_for_line("endless began")
        server.signal(signal.SIGQUIT)
        server.wait_for_line("warning: tasks of this process")
        server.wait_for_line(r"main\.py:\d+ in app: await trio.sleep_forever\(\)")
        assert get(url) == (200, b"hello")
        server.signal(signal.SIGTERM)
        server.wait_for_line("stopping")
        server.signal(signal.SIGTERM)
        read_all(request)
        assert server.wait() == 0
    assert any("task accept on http://127.0.0.1" in line for line in server.lines)


# -- surroundings --------------------------------------------------------------------------------------------------


def test_env_file_reaches_the_application_and_the_environment_wins(directory):
    (directory / "app.env").write_text("GREETING='good morning'\n", encoding="utf-8")
    for env, greeting in (({}, b"good morning"), ({"GREETING": "real"}, b"real")):
        with serve(directory, "--env-file", "app.env", env=env) as server:
            assert get(server.wait_until_serving(), "/environment") == (200, greeting)
            assert server.stop() == 0


def test_env_file_is_there_when_the_application_is_imported(tmp_path):
    write_app(tmp_path, "import os\nraise LookupError(os.environ['GREETING'])")
    (tmp_path / "app.env").write_text("GREETING=early\n", encoding="utf-8")
    with serve(tmp_path, "--env-file", "app.env") as server:
        assert server.wait() == 3
    assert "LookupError: early" in server.errors


def test_stdout_that_nobody_reads_is_survived(directory):
    reading, writing = os.pipe()
    with serve(directory, stdout=writing) as server:
        os.close(writing)
        url = server.wait_until_serving()
        os.close(reading)
        assert get(url) == (200, b"hello")
        server.wait_for_line("access log -: Broken pipe")
        assert get(url, "/print") == (200, b"printed")
        assert server.stop() == 0
    assert "BrokenPipeError" not in server.errors


def test_stderr_that_nobody_reads_is_survived(directory):
    command = [sys.executable, "-m", "trioserve", "main:app", "-b", "unix:web.sock"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=directory, env=clean_environment(), **pipes) as process:
        assert any(b" serving " in line for line in process.stderr)
        process.stderr.close()
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def test_closed_standard_streams_are_survived(directory):
    code = f'exec "{sys.executable}" -m trioserve main:app -b unix:web.sock <&- >&-'
    options = {"cwd": directory, "env": clean_environment(), "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(["sh", "-c", code], **options) as process:
        line = next(line for line in process.stderr if " serving " in line)
        assert "http+unix:" in line
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert "Traceback" not in process.stderr.read()


# -- the end -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 1])
def test_signals_until_the_very_end_make_no_noise(directory, workers):
    with serve(directory, "--workers", str(workers)) as server:
        server.wait_until_serving()
        server.signal(signal.SIGTERM)
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            # Not faster than handlers run: each would interrupt the one before, up to the limit of recursion.
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.process.wait(0.0002)
                break
            server.signal(signal.SIGUSR1)
        assert server.wait() == 0
    assert "stopped" in server.errors
    assert "Exception ignored" not in server.errors


def test_hup_without_a_supervisor_is_refused_in_the_log(directory):
    with serve(directory) as server:
        url = server.wait_until_serving()
        server.signal(signal.SIGHUP)
        server.wait_for_line("warning: cannot reload: this process has no supervisor")
        assert get(url) == (200, b"hello")
        assert server.stop() == 0


THREADS = """
    import threading, time
    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            raise NotImplementedError
        threading.Thread(target=time.sleep, args=(3600,), name="left behind").start()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})
"""


def test_a_thread_that_never_ends_is_named_and_left(tmp_path):
    write_app(tmp_path, THREADS)
    with serve(tmp_path) as server:
        assert get(server.wait_until_serving()) == (200, b"")
        assert server.stop() == 0
    assert "the process ends although it has not finished; threads: MainThread, left behind" in server.errors


# -- privileges ----------------------------------------------------------------------------------------------------

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


@as_root
def test_another_user_serves_what_root_has_opened(tmp_path):
    """The port, the key and env_file are root's; the application runs as nobody, who can open the logs again."""
    nobody = pwd.getpwnam("nobody")
    try:
        subprocess.run([sys.executable, "-c", ""], user="nobody", check=True, stderr=subprocess.DEVNULL)
    except (PermissionError, subprocess.CalledProcessError):
        pytest.skip("this interpreter is for root alone")
    public = Path(tempfile.mkdtemp(dir="/tmp"))  # pytest's own directories are root's
    try:
        certificate = trustme.CA().issue_cert("localhost")
        key = public / "key.pem"
        certificate.private_key_and_cert_chain_pem.write_to_path(str(key))
        (public / "secret.env").write_text("GREETING=secret\n")
        for path in (key, public / "secret.env"):
            path.chmod(0o600)
        write_app(public, APP)
        os.chown(public, nobody.pw_uid, -1)
        arguments = ["--process-user", "nobody", "--tls-certificate", str(key), "--env-file", "secret.env"]
        arguments += ["--logging-file", "error.log", "--logging-access", "access.log"]
        address = f"127.0.0.1:{find_low_port()}"
        with ServerProcess(public, "main:app", "-w", "0", "-b", address, *arguments) as server:
            error_log = public / "error.log"
            end = time.monotonic() + PATIENCE
            while not error_log.exists() or " serving " not in error_log.read_text():
                assert time.monotonic() < end
            command = ["curl", "-sk", f"https://{address}/environment"]
            assert subprocess.run(command, capture_output=True).stdout == b"secret"
            status = Path(f"/proc/{server.process.pid}/status").read_text()
            assert f"Uid:\t{nobody.pw_uid}\t{nobody.pw_uid}\t{nobody.pw_uid}" in status
            error_log.rename(public / "error.log.1")
            server.signal(signal.SIGUSR1)
            while not error_log.exists():
                assert time.monotonic() < end
            assert server.stop() == 0
        assert {path.stat().st_uid for path in public.glob("*.log*")} == {nobody.pw_uid}
        assert "stopped" in error_log.read_text()
    finally:
        shutil.rmtree(public)


def find_low_port():
    for port in range(600, 1024):
        with socket.socket() as sock, suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port below 1024 is free")
