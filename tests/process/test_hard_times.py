"""What surrounds a supervisor goes away while it runs: directories, files, descriptors."""

from __future__ import annotations

import os
import shutil
import signal

import pytest
import trustme

from tests.process.supervised import Supervised, wait_until


@pytest.mark.parametrize("options", [(), ("--process-preload",)], ids=["spawned", "preloaded"])
def test_a_working_directory_that_is_removed_is_not_needed(tmp_path, options):
    directory = tmp_path / "release"
    directory.mkdir()
    env = {"APP_JOURNAL": str(tmp_path / "journal")}
    with Supervised(directory, *options, env=env) as server:
        url = server.wait_until_serving()
        shutil.rmtree(directory)
        server.reload(1)
        server.wait_for_line("info: reloaded")
        os.kill(server.ready[-1], signal.SIGKILL)
        server.wait_for_workers(3)
        wait_until(lambda: server.ready[0] not in server.processes(), "the first one has gone")
        assert int(server.ask(url)) == server.ready[2]
        assert server.stop() == 0


def test_a_log_that_cannot_be_opened_again_after_a_reload_that_failed(tmp_path):
    (tmp_path / "logs").mkdir()
    file = tmp_path / "trioserve.toml"
    bind = 'bind = ["127.0.0.1:0"]\n'
    file.write_text(bind + '[logging]\nfile = "logs/error.log"\n')
    with Supervised(tmp_path, bind=None) as server:
        wait_until(lambda: "serving" in read(tmp_path / "logs/error.log"), "it serves")
        shutil.rmtree(tmp_path / "logs")
        file.write_text('bind = ["127.0.0.1:0", "192.0.2.1:1"]\n[logging]\nfile = "other.log"\n')
        server.signal(signal.SIGHUP)
        wait_until(lambda: "not reloaded" in read(tmp_path / "other.log"), "it is said")
        assert "the former log cannot be opened again" in read(tmp_path / "other.log")
        file.write_text(bind)
        server.signal(signal.SIGHUP)
        server.wait_for_line("info: reloaded")
        assert server.stop() == 0


def test_a_reload_that_is_refused_for_its_log_is_in_the_log(tmp_path):
    (tmp_path / "logging.json").write_text(
        '{"version": 1, "handlers": {"none": {"class": "absent.Handler"}}}'
    )
    file = tmp_path / "trioserve.toml"
    file.write_text('[logging]\nfile = "error.log"\n')
    with Supervised(tmp_path) as server:
        wait_until(lambda: "serving" in read(tmp_path / "error.log"), "it serves")
        file.write_text('[logging]\nconfig = "logging.json"\n')
        server.signal(signal.SIGHUP)
        wait_until(lambda: "not reloaded" in read(tmp_path / "error.log"), "it is said")
        assert server.stop() == 0
    assert "Unable to configure handler 'none'" in read(tmp_path / "error.log")
    assert server.lines == []


def read(file):
    return file.read_text() if file.exists() else ""


def test_a_certificate_that_is_gone_refuses_a_reload(tmp_path):
    trustme.CA().issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    with Supervised(tmp_path, "-w", "2", "--tls-certificate", "server.pem") as server:
        server.wait_until_serving()
        (tmp_path / "server.pem").rename(tmp_path / "away.pem")
        server.signal(signal.SIGHUP)
        server.wait_for_line("not reloaded, nothing has changed: .*server.pem")
        (tmp_path / "away.pem").rename(tmp_path / "server.pem")
        server.reload(2)
        assert server.stop() == 0


def test_a_configuration_file_that_has_gone_does_not_mean_the_defaults(tmp_path):
    file = tmp_path / "trioserve.toml"
    file.write_text('bind = ["127.0.0.1:0"]\n[limits]\nbody_size = 5\n')
    with Supervised(tmp_path, bind=None) as server:
        server.wait_until_serving()
        text = file.read_text()
        file.unlink()
        server.signal(signal.SIGHUP)
        server.wait_for_line(r"not reloaded, nothing has changed: trioserve.toml: No such file or directory")
        file.write_text(text)
        server.signal(signal.SIGHUP)
        server.wait_for_line("info: reloaded")
        assert server.stop() == 0
    assert len(server.ready) == 2
