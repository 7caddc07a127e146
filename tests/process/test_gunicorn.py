"""The real Gunicorn with our worker class."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import ssl
import sys
from pathlib import Path

import pytest
import trustme

from tests.process.clients import Http1Connection, open_socket
from tests.process.load import KEEP_ALIVE, ONE_EACH, Load
from tests.process.supervised import wait_until
from tests.server_process import ServerProcess, get, read_all, send_request
from trioserve.config import Config, ConfigError, LoggingSettings, ProxySettings, TimeoutSettings

gunicorn_config = pytest.importorskip("gunicorn.config", reason="Gunicorn is not installed")
build_config = pytest.importorskip("trioserve.gunicorn").build_config

HERE = Path(__file__).parent
BOOTING = r"Booting worker with pid: (\d+)"
WSGI_APP = """
import os, time, threading

barrier = threading.Barrier(4, timeout=20)

def app(environ, start_response):
    if environ["PATH_INFO"] == "/together":
        barrier.wait()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [environ["SERVER_PORT"].encode()]
"""


# Gunicorn's process logs nothing when a worker takes signals: a TERM before that is lost, and waited for in vain.
HOOKS = """
control_socket_disable = True  # it would be at a place that all share; older versions do not know it

def note(event):
    with open("workers", "a") as journal:
        journal.write(event)

def pre_fork(server, worker):
    note("forked ")

def post_worker_init(worker):
    note("ready ")

def child_exit(server, worker):
    note("gone ")
"""


class Gunicorn(ServerProcess):
    command = (sys.executable, "-m", "gunicorn")
    url = re.compile(r"Listening at: (\S+)")

    def __init__(
        self, directory, *arguments, app="apps:app", bind="127.0.0.1:0", env=None, hooks="", **options
    ):
        (directory / "gunicorn.conf.py").write_text(HOOKS + hooks)
        words = [
            "-k",
            "trioserve.gunicorn.TrioWorker",
            "-b",
            bind,
            "--pythonpath",
            str(HERE),
            *arguments,
            app,
        ]
        self.journal = directory / "journal"
        self.workers = directory / "workers"
        self.size = int(arguments[arguments.index("-w") + 1]) if "-w" in arguments else 1
        env = {"APP_JOURNAL": str(self.journal)} | (env or {})
        super().__init__(directory, *words, env=env, start_new_session=True, **options)

    def __exit__(self, *details):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        super().__exit__(*details)

    def stop(self):
        """Stop it once each of its workers takes signals."""
        wait_until(self._all_take_signals, "all workers take signals")
        return super().stop()

    def _all_take_signals(self):
        noted = self.workers.read_text().split()
        forked = noted.count("forked")
        return forked == noted.count("ready") == noted.count("gone") + self.size

    def count(self, event):
        """How many processes have noted it."""
        return self.journal.read_text().count(event) if self.journal.exists() else 0


class TestRequests:
    def test_an_asgi_application(self, tmp_path):
        with Gunicorn(tmp_path) as gunicorn:
            url = gunicorn.wait_until_serving()
            worker = int(gunicorn.wait_for_line(BOOTING)[1])
            assert get(url) == (200, str(worker).encode())
            assert gunicorn.stop() == 0
        assert f"startup {worker}\nshutdown {worker}\n" in gunicorn.journal.read_text()

    @pytest.mark.parametrize("flags", [(), ("--preload",), ("-w", "2")])
    def test_a_wsgi_application(self, tmp_path, flags):
        (tmp_path / "site_app.py").write_text(WSGI_APP)
        with Gunicorn(tmp_path, *flags, app="site_app:app") as gunicorn:
            url = gunicorn.wait_until_serving()
            assert get(url) == (200, url.rpartition(":")[2].encode())
            assert gunicorn.stop() == 0

    def test_threads(self, tmp_path):
        (tmp_path / "site_app.py").write_text(WSGI_APP)
        with Gunicorn(tmp_path, "--threads", "4", app="site_app:app") as gunicorn:
            url = gunicorn.wait_until_serving()
            waiting = [send_request(url, "/together") for _ in range(4)]
            assert all(b"200 OK" in read_all(sock) for sock in waiting)

    def test_an_application_that_was_imported_before_the_fork(self, tmp_path):
        with Gunicorn(tmp_path, "--preload", "-w", "2") as gunicorn:
            url = gunicorn.wait_until_serving()
            assert get(url)[0] == 200
            assert gunicorn.stop() == 0
        events = gunicorn.journal.read_text().splitlines()
        assert [event for event in events if event.startswith("import")] == [f"import {gunicorn.process.pid}"]

    def test_a_unix_socket(self, tmp_path):
        path = tmp_path / "web.sock"
        with Gunicorn(tmp_path, bind=f"unix:{path}") as gunicorn:
            gunicorn.wait_until_serving()
            with open_socket(f"unix:{path}") as sock:
                assert Http1Connection(sock).ask("/").isdigit()
            assert gunicorn.stop() == 0
        assert not path.exists()

    def test_tls_and_http2(self, tmp_path):
        authority = trustme.CA()
        certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
        issued = authority.issue_cert("localhost")
        issued.cert_chain_pems[0].write_to_path(certificate)
        issued.private_key_pem.write_to_path(key)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        authority.configure_trust(context)
        context.set_alpn_protocols(["h2"])
        with Gunicorn(tmp_path, "--certfile", str(certificate), "--keyfile", str(key)) as gunicorn:
            with open_socket(gunicorn.wait_until_serving(), context) as sock:
                assert sock.selected_alpn_protocol() == "h2"
            context.set_alpn_protocols(["http/1.1"])
            with open_socket("https" + gunicorn_url(gunicorn), context) as sock:
                assert Http1Connection(sock).ask("/").isdigit()
            assert gunicorn.stop() == 0


def gunicorn_url(gunicorn):
    """What follows the scheme."""
    return next(match[1] for line in gunicorn.lines if (match := gunicorn.url.search(line))).partition(
        "https"
    )[2]


class TestSignals:
    def test_term_lets_requests_end(self, tmp_path):
        with Gunicorn(tmp_path, "--keep-alive", "60") as gunicorn:
            url = gunicorn.wait_until_serving()
            get(url)
            idle = open_socket(url)
            Http1Connection(idle).ask("/")
            running = [send_request(url, "/sleep/1") for _ in range(20)]
            with open_socket(url) as one_more:  # what came before it has been accepted with it
                Http1Connection(one_more).ask("/")
            assert gunicorn.stop() == 0
            assert all(b"200 OK" in read_all(sock) for sock in running)
            assert read_all(idle) == b""
        assert "shutdown" in gunicorn.journal.read_text()

    def test_term_is_bounded(self, tmp_path):
        with Gunicorn(tmp_path, "--graceful-timeout", "2") as gunicorn:
            running = send_request(gunicorn.wait_until_serving(), "/sleep/100")
            with open_socket(gunicorn_http(gunicorn)) as one_more:
                Http1Connection(one_more).ask("/")
            assert gunicorn.stop() == 0
            assert b"503 Service Unavailable" in read_all(running)
        assert "shutdown" in gunicorn.journal.read_text()  # it was not killed

    @pytest.mark.parametrize("number", [signal.SIGQUIT, signal.SIGINT])
    def test_quit_and_int_are_quick(self, tmp_path, number):
        with Gunicorn(tmp_path) as gunicorn:
            running = send_request(gunicorn.wait_until_serving(), "/sleep/100")
            with open_socket(gunicorn_http(gunicorn)) as one_more:
                Http1Connection(one_more).ask("/")
            gunicorn.signal(number)
            assert gunicorn.wait() == 0
            assert b"503 Service Unavailable" in read_all(running)
        assert "shutdown" in gunicorn.journal.read_text()

    @pytest.mark.parametrize("mode", [KEEP_ALIVE, ONE_EACH])
    def test_hup_under_load_loses_nothing(self, tmp_path, mode):
        with Gunicorn(tmp_path, "-w", "2") as gunicorn:
            url = gunicorn.wait_until_serving()
            with Load(url, mode=mode, clients=4) as load:
                load.wait_for(100)
                for number in range(1, 4):
                    gunicorn.signal(signal.SIGHUP)
                    wait_until(
                        lambda number=number: gunicorn.count("shutdown") == 2 * number, "two have gone"
                    )
                    load.wait_for(100)
            assert load.failures == []
            assert gunicorn.stop() == 0

    def test_usr1_opens_the_logs_again(self, tmp_path):
        access, errors = tmp_path / "access.log", tmp_path / "errors.log"
        flags = (
            "--access-logfile",
            str(access),
            "--access-logformat",
            "%(m)s %(Uq)s %(s)s",
            "--error-logfile",
            str(errors),
        )
        with Gunicorn(tmp_path, *flags) as gunicorn:
            wait_until(lambda: errors.exists() and "Listening at" in errors.read_text(), "the error log")
            url = re.search(r"Listening at: (\S+)", errors.read_text())[1]
            get(url, "/one")
            wait_until(lambda: access.exists() and access.read_text() == "GET /one 200\n", "the first line")
            access.rename(tmp_path / "access.log.1")
            errors.rename(tmp_path / "errors.log.1")
            gunicorn.signal(signal.SIGUSR1)
            wait_until(lambda: access.exists() and errors.exists(), "new files")
            get(url, "/two")
            wait_until(lambda: access.read_text() == "GET /two 200\n", "the second line")
            assert gunicorn.stop() == 0

    def test_a_worker_whose_parent_was_killed_ends(self, tmp_path):
        with Gunicorn(tmp_path) as gunicorn:
            gunicorn.wait_until_serving()
            worker = int(gunicorn.wait_for_line(BOOTING)[1])
            wait_until(lambda: gunicorn.count("startup"), "the application has started")
            gunicorn.signal(signal.SIGKILL)
            gunicorn.wait()
            wait_until(lambda: gunicorn.count(f"shutdown {worker}"), "it has been shut down")
            wait_until(lambda: not Path(f"/proc/{worker}").exists(), "the worker is gone")


def gunicorn_http(gunicorn):
    return next(match[1] for line in gunicorn.lines if (match := gunicorn.url.search(line)))


def change_code(file, code, url, number):
    """Whether Gunicorn sees that a file has changed: it does not when it has not looked at the file before."""
    file.write_text(code % number)  # another size: times of files are coarse
    try:
        wait_until(lambda: get(url) == (200, b"%d" % number), "the new code answers", patience=7.0)
    except AssertionError:
        return False
    return True


class TestWorkers:
    def test_a_blocked_worker_is_killed_with_its_stack_in_the_log(self, tmp_path):
        hooks = "def worker_abort(worker):\n    worker.log.info('aborted %s', worker.pid)\n"
        with Gunicorn(tmp_path, "--timeout", "2", hooks=hooks) as gunicorn:
            url = gunicorn.wait_until_serving()
            worker = int(gunicorn.wait_for_line(BOOTING)[1])
            with send_request(url, "/block/100") as blocked:
                gunicorn.wait_for_line("WORKER TIMEOUT")
                gunicorn.wait_for_line("the event loop has not run for 2 s")
                gunicorn.wait_for_line(r"time\.sleep\(float\(amount\)\)")
                gunicorn.wait_for_line(f"aborted {worker}")
                assert blocked.recv(1) == b""
            assert int(get(url)[1]) != worker
            assert gunicorn.stop() == 0

    def test_a_busy_worker_that_yields_lives(self, tmp_path):
        with Gunicorn(tmp_path, "--timeout", "2") as gunicorn:
            url = gunicorn.wait_until_serving()
            status, body = get(url, "/compute/5")
            assert (status, int(body)) == (200, int(gunicorn.wait_for_line(BOOTING)[1]))
            assert gunicorn.stop() == 0
        assert "TIMEOUT" not in gunicorn.errors

    def test_max_requests(self, tmp_path):
        with Gunicorn(
            tmp_path, "-w", "2", "--max-requests", "200", "--max-requests-jitter", "50"
        ) as gunicorn:
            with Load(gunicorn.wait_until_serving(), clients=4) as load:
                wait_until(lambda: len(load.pids) >= 4, "two workers have been replaced", 60)
            assert load.failures == []
            assert gunicorn.stop() == 0
        assert min(sorted(load.pids.values())[-2:]) >= 200

    def test_code_that_changes(self, tmp_path):
        code = "def app(environ, start_response):\n    start_response('200 OK', [])\n    return [b'%d']\n"
        (tmp_path / "site_app.py").write_text(code % 1)
        with Gunicorn(tmp_path, "--reload", app="site_app:app") as gunicorn:
            url = gunicorn.wait_until_serving()
            assert get(url) == (200, b"1")
            assert any(change_code(tmp_path / "site_app.py", code, url, number) for number in (22, 333, 4444))
            assert gunicorn.stop() == 0

    def test_an_application_that_does_not_start_ends_all(self, tmp_path):
        with Gunicorn(tmp_path, env={"APP_AT_STARTUP": "raise OSError('no database')"}) as gunicorn:
            assert gunicorn.wait() == 3
        assert "no database" in gunicorn.errors
        assert "Worker failed to boot" in gunicorn.errors

    def test_a_wrong_setting_ends_all(self, tmp_path):
        with Gunicorn(tmp_path, env={"TRIOSERVE_TIMEOUTS_HEAD": "soon"}) as gunicorn:
            assert gunicorn.wait() == 3
        assert "TRIOSERVE_TIMEOUTS_HEAD" in gunicorn.errors

    def test_settings_of_our_own(self, tmp_path):
        (tmp_path / "trioserve.toml").write_text('server_names = ["served.example"]\n')
        with Gunicorn(tmp_path, env={"TRIOSERVE_HEADERS_EXTRA": "X-From: environment"}) as gunicorn:
            url = gunicorn.wait_until_serving()
            assert get(url)[0] == 421
            host, _, port = url.partition("://")[2].rpartition(":")
            with socket.create_connection((host, int(port)), timeout=20) as sock:
                sock.sendall(b"GET / HTTP/1.0\r\nHost: served.example\r\n\r\n")
                answer = read_all(sock)
            assert b"200 OK" in answer
            assert b"x-from: environment" in answer.lower()
            assert gunicorn.stop() == 0


class TestTranslation:
    def translate(self, ours=None, **settings):
        cfg = gunicorn_config.Config()
        for name, value in settings.items():
            cfg.set(name, value)
        return build_config(cfg, ours or Config())

    def test_defaults_of_gunicorn_leave_ours_alone(self):
        ours = Config(
            timeouts=TimeoutSettings(keep_alive=17, graceful=5, cleanup_grace=1, lifespan_shutdown=2),
            logging=LoggingSettings(access="off"),
        )
        assert self.translate(ours) == ours

    def test_values_that_mean_the_same(self):
        config = self.translate(
            keepalive=9, worker_connections=7, limit_request_fields=33, limit_request_line=2048, threads=5
        )
        assert config.timeouts.keep_alive == 9
        assert config.limits.connections == 7
        assert config.http1.max_fields == config.http2.max_fields == 33
        assert config.http1.max_target_size == 2048
        assert config.wsgi.threads == 5

    def test_zeros(self):
        config = self.translate(keepalive=0, limit_request_line=0)
        assert config.http1.max_requests_per_connection == 1
        assert config.timeouts.keep_alive == 75
        assert config.http1.max_target_size == config.http1.max_head_size

    @pytest.mark.parametrize(
        ("ours", "graceful_timeout", "expected"),
        [
            (TimeoutSettings(), 30, (24, 3, 30)),
            (TimeoutSettings(), 10, (8, 1, 10)),
            (TimeoutSettings(graceful=0, lifespan_shutdown=0), 10, (8, 1, 10)),
            (TimeoutSettings(graceful=4, cleanup_grace=0.5, lifespan_shutdown=1), 10, (4, 0.5, 1)),
            (TimeoutSettings(drain_delay=5), 10, (3, 1, 10)),
            (TimeoutSettings(drain_delay=60), 10, (0.1, 1, 10)),
            (TimeoutSettings(), 0, (0.8, 0.1, 1)),
        ],
    )
    def test_the_end_fits_into_the_graceful_timeout(self, ours, graceful_timeout, expected):
        timeouts = self.translate(Config(timeouts=ours), graceful_timeout=graceful_timeout).timeouts
        found = (timeouts.graceful, timeouts.cleanup_grace, timeouts.lifespan_shutdown)
        assert found == pytest.approx(expected)

    @pytest.mark.parametrize(
        ("accesslog", "ours", "expected"),
        [
            (None, "-", "off"),
            (None, "/var/log/a.log", "/var/log/a.log"),
            ("-", "off", "-"),
            ("/b.log", "-", "/b.log"),
            (None, "off", "off"),
        ],
    )
    def test_where_the_access_log_goes(self, accesslog, ours, expected):
        config = self.translate(Config(logging=LoggingSettings(access=ours)), accesslog=accesslog)
        assert config.logging.access == expected

    def test_proxies(self):
        assert self.translate().proxy == ProxySettings()
        proxy = self.translate(forwarded_allow_ips="10.0.0.1, 10.1.0.0/16", proxy_protocol=True).proxy
        assert proxy.trusted == ("10.0.0.1", "10.1.0.0/16", "unix")
        assert proxy.protocol == "any"

    def test_client_certificates(self, tmp_path):
        authority = trustme.CA()
        authority.cert_pem.write_to_path(tmp_path / "ca.pem")
        authority.issue_cert("a.example").private_key_and_cert_chain_pem.write_to_path(tmp_path / "both.pem")
        files = {"certfile": str(tmp_path / "both.pem"), "ca_certs": str(tmp_path / "ca.pem")}
        tls = self.translate(**files, cert_reqs=ssl.CERT_REQUIRED, ciphers="ECDHE+AESGCM").tls
        assert (tls.certificate, tls.key, tls.ca) == (files["certfile"], None, files["ca_certs"])
        assert (tls.client_certificates, tls.ciphers) == ("required", "ECDHE+AESGCM")
        assert self.translate(**files, cert_reqs=ssl.CERT_OPTIONAL).tls.client_certificates == "optional"
        assert self.translate(**files).tls.ca is None

    def test_what_cannot_be_had(self):
        with pytest.raises(ConfigError):
            self.translate(certfile="/nowhere.pem")
