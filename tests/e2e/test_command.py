from __future__ import annotations

import socket
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import trustme

from tests.server_process import PATIENCE, ServerProcess, clean_environment, get

ROOT = Path(__file__).parents[2]
APP = """
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        raise NotImplementedError
    tls = scope["extensions"].get("tls", {}).get("tls_version", 0)
    body = f"{scope['scheme']} {scope['http_version']} {tls:x} {scope['server'][0]}".encode()
    fields = [(b"content-length", str(len(body)).encode()), (b"content-type", b"text/plain")]
    await send({"type": "http.response.start", "status": 200, "headers": fields})
    await send({"type": "http.response.body", "body": body})
"""


@pytest.fixture
def directory(tmp_path):
    (tmp_path / "main.py").write_text(APP, encoding="utf-8")
    return tmp_path


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    directory = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(directory / "ca.pem")
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(directory / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(directory / "cert.pem")
    certificate.private_key_and_cert_chain_pem.write_to_path(directory / "both.pem")
    return directory


def curl(*arguments) -> str:
    command = [
        "curl",
        "--silent",
        "--show-error",
        "--fail",
        "--max-time",
        str(PATIENCE),
        *map(str, arguments),
    ]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=clean_environment()).stdout


# -- TLS -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("files", [("cert.pem", "key.pem"), ("both.pem",)], ids=["two files", "one file"])
def test_tls_with_both_versions(directory, certificates, files):
    flags = [
        f"--tls-certificate={certificates / files[0]}",
        *[f"--tls-key={certificates / f}" for f in files[1:]],
    ]
    with ServerProcess(directory, "main:app", "-b", "127.0.0.1:0", *flags) as server:
        url = server.wait_until_serving()
        assert url.startswith("https://127.0.0.1:")
        trust = ("--cacert", certificates / "ca.pem", "--http1.1", url)
        assert curl("--tlsv1.3", *trust) == "https 1.1 304 127.0.0.1"
        assert curl("--tlsv1.2", "--tls-max", "1.2", *trust) == "https 1.1 303 127.0.0.1"
        assert server.stop() == 0


def test_tls_minimum_version(directory, certificates):
    flags = ["--tls-certificate", str(certificates / "both.pem"), "--tls-minimum-version", "1.3"]
    with ServerProcess(directory, "main:app", "-b", "127.0.0.1:0", *flags) as server:
        url = server.wait_until_serving()
        with pytest.raises(subprocess.CalledProcessError) as caught:
            curl("--tls-max", "1.2", "--cacert", certificates / "ca.pem", url)
        assert caught.value.returncode == 35  # curl's number for a handshake that failed
        assert curl("--cacert", certificates / "ca.pem", url) == "https 2 304 127.0.0.1"
        assert server.stop() == 0


def test_plain_bind_beside_tls(directory, certificates):
    flags = ["--tls-certificate", str(certificates / "both.pem"), "--insecure-bind", "127.0.0.1:0"]
    with ServerProcess(directory, "main:app", "-b", "127.0.0.1:0", *flags) as server:
        secure, plain = server.wait_until_serving(), server.wait_until_serving()
        assert curl("--cacert", certificates / "ca.pem", secure).startswith("https ")
        assert curl(plain).startswith("http ")
        assert server.stop() == 0


def test_certificate_without_key(directory, certificates):
    (directory / "x.toml").write_text(f'app = "main:app"\n[tls]\ncertificate = "{certificates}/cert.pem"\n')
    with ServerProcess(directory, "-c", "x.toml") as server:
        assert server.wait() == 2
    assert server.lines == [
        f"trioserve: error: x.toml: [tls] key: missing, and {certificates}/cert.pem holds no private key"
    ]


# -- what the documentation says -----------------------------------------------------------------------------------


def read_blocks(name, language):
    """The fenced blocks of a page."""
    text = (ROOT / name).read_text(encoding="utf-8")
    return [block.partition("```")[0] for block in text.split(f"```{language}\n")[1:]]


def test_first_application_of_the_readme(tmp_path):
    (tmp_path / "main.py").write_text(read_blocks("README.md", "python")[0], encoding="utf-8")
    with ServerProcess(tmp_path, "main:app", "-b", "127.0.0.1:0") as server:
        assert curl(server.wait_until_serving()) == "Hello\n"
        assert server.stop() == 0
    assert " error: " not in server.errors


def test_configurations_of_the_readme(directory):
    blocks = read_blocks("README.md", "toml")
    assert len(blocks) == 2
    for block in blocks:
        (directory / "trioserve.toml").write_text(block, encoding="utf-8")
        with ServerProcess(directory, "--check") as server:
            assert server.wait() == 0, server.errors


def test_development_configuration(directory):
    file = ROOT / "config" / "development.toml"
    with ServerProcess(directory, "--config", str(file), "-b", "127.0.0.1:0") as server:
        assert curl(server.wait_until_serving()).startswith("Hello")
        assert server.stop() == 0


# -- where it listens ----------------------------------------------------------------------------------------------


def test_unix_socket(directory):
    with ServerProcess(directory, "main:app", "-b", "unix:web.sock") as server:
        assert server.wait_until_serving() == f"http+unix:{directory}/web.sock"
        path = directory / "web.sock"
        assert curl("--unix-socket", path, "http://anything/") == f"http 1.1 0 {path}"
        assert server.stop() == 0
    assert not path.exists()


def test_inherited_socket(directory):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        # The shell puts it where the command line says that it is.
        script = f'exec "{sys.executable}" -m trioserve main:app --bind fd:3 3<&{listening.fileno()}'
        with subprocess.Popen(
            ["bash", "-c", script],
            cwd=directory,
            env=clean_environment(),
            pass_fds=[listening.fileno()],
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            listening.close()
            try:
                line = next(line for line in process.stderr if " serving " in line)
                assert f"http://127.0.0.1:{port}" in line
                assert curl(f"http://127.0.0.1:{port}") == "http 1.1 0 127.0.0.1"
            finally:
                process.terminate()
            assert process.wait(PATIENCE) == 0


def test_several_binds(directory):
    with ServerProcess(directory, "main:app", "-b", "127.0.0.1:0", "--bind", "127.0.0.1:0") as server:
        urls = {server.wait_until_serving(), server.wait_until_serving()}
        assert len(urls) == 2
        for url in urls:
            assert curl(url) == "http 1.1 0 127.0.0.1"
        assert server.stop() == 0


def test_port_of_the_environment(directory):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        # A port that is taken shows which one was asked for, and no port is opened to the world.
        port = taken.getsockname()[1]
        with ServerProcess(directory, "main:app", env={"PORT": str(port)}) as server:
            assert server.wait() == 2
    assert server.errors.startswith(f"trioserve: error: cannot listen on 0.0.0.0:{port}: ")


# -- where the configuration comes from ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "prefix"), [("trioserve.toml", ""), ("pyproject.toml", "[tool.trioserve]\n")]
)
def test_configuration_is_found_in_the_working_directory(directory, name, prefix):
    (directory / name).write_text(f'{prefix}app = "main:app"\nbind = "127.0.0.1:0"\n')
    with ServerProcess(directory) as server:
        server.wait_for_line(f"configuration: {name}$")
        assert curl(server.wait_until_serving()) == "http 1.1 0 127.0.0.1"
        assert server.stop() == 0


def test_paths_of_a_file_are_relative_to_it(directory):
    (directory / "deploy").mkdir()
    (directory / "deploy" / "x.toml").write_text('app = "main:app"\napp_dir = ".."\nbind = ["unix:x.sock"]\n')
    with ServerProcess(directory, "-c", "deploy/x.toml") as server:
        assert server.wait_until_serving() == f"http+unix:{directory}/deploy/x.sock"
        assert server.stop() == 0


def test_misspelt_key(directory):
    (directory / "trioserve.toml").write_text('app = "main:app"\nbinds = ["127.0.0.1:0"]\n')
    with ServerProcess(directory) as server:
        assert server.wait() == 2
    assert server.lines == ["trioserve: error: trioserve.toml: binds: unknown key, did you mean bind?"]


def test_check(directory):
    with ServerProcess(directory, "main:app", "--check", "-b", "127.0.0.1:0") as server:
        assert server.wait() == 0
    assert server.lines == []


def test_print_config(directory):
    with ServerProcess(directory, "--print-config", stdout=subprocess.PIPE) as server:
        assert server.wait() == 0
        assert 'bind = ["127.0.0.1:8000"]' in server.process.stdout.read().splitlines()


@pytest.mark.parametrize("flag", ["--print-config", "--help", "--version"])
def test_answer_that_nobody_reads(directory, flag):
    reading, writing = socket.socketpair()
    reading.close()
    with writing, ServerProcess(directory, flag, stdout=writing) as server:
        assert server.wait() in {0, 1}
    assert server.lines == []


def test_installed_command():
    command = Path(sysconfig.get_path("scripts"), "trioserve")
    result = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
    assert result.stdout.startswith("trioserve ")


def test_keep_alive_with_curl(directory):
    with ServerProcess(directory, "main:app", "-b", "127.0.0.1:0") as server:
        url = server.wait_until_serving()
        counted = curl("--write-out", " %{num_connects}\n", url, url)
        assert [line.split()[-1] for line in counted.splitlines()] == ["1", "0"]
        assert get(url)[0] == 200
        assert server.stop() == 0
