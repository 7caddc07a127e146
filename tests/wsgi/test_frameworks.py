from __future__ import annotations

import hashlib
import re
import ssl
from typing import TYPE_CHECKING, NamedTuple

import httpx
import pytest
import trustme

from tests.e2e.servers import ROOT
from tests.server_process import URL, ServerProcess
from tests.wsgi.apps import flask_app as any_app_with_files

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 1024 * 1024
TIMEOUT = 20
FRAMEWORKS = ("flask", "django", "pyramid", "cherrypy")
CONTENT = bytes(range(256)) * 4096 * 5
"""Five megabytes."""
STATIC = any_app_with_files.STATIC / "style.css"


class Served(NamedTuple):
    """A framework's application, with and without TLS in one process."""

    framework: str
    secure_url: str
    plain_url: str
    trust: ssl.SSLContext


@pytest.fixture(scope="session")
def authority(tmp_path_factory):
    """A directory with the authority, ca.pem, and key and certificate of 127.0.0.1, both.pem."""
    directory = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(directory / "ca.pem")
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(directory / "both.pem")
    return directory


@pytest.fixture(scope="module", params=FRAMEWORKS)
def served(request, authority, tmp_path_factory) -> Iterator[Served]:
    directory = tmp_path_factory.mktemp(request.param)
    arguments = (
        *(f"tests.wsgi.apps.{request.param}_app:app", "--bind=127.0.0.1:0", "--insecure-bind=127.0.0.1:0"),
        *(f"--tls-certificate={authority / 'both.pem'}", "--logging-access=off", "--timeouts-graceful=2"),
    )
    with ServerProcess(ROOT, *arguments, env={"DJANGO_DIRECTORY": str(directory)}) as process:
        urls = [process.wait_for_line(URL.pattern)[1] for _ in range(2)]
        trust = ssl.create_default_context(cafile=authority / "ca.pem")
        yield Served(request.param, *sorted(urls, reverse=True), trust)
        assert process.stop() == 0, process.errors
        assert not re.search("AssertionError|WSGIWarning|Error:(?! broken on purpose)", process.errors), (
            process.errors
        )


@pytest.fixture(params=["HTTP/1.1", "HTTP/1.1 bare", "HTTP/2"])
def client(request, served) -> Iterator[httpx.Client]:
    """A client of the application; bare is without the validator."""
    version, _, bare = request.param.partition(" ")
    http2 = version == "HTTP/2"
    with httpx.Client(
        base_url=served.secure_url if http2 else served.plain_url,
        http1=not http2,
        http2=http2,
        verify=served.trust,
        timeout=TIMEOUT,
        headers={"x-bare": "yes"} if bare else {},
    ) as client:
        yield client


def test_hello(client, served):
    response = client.get("/")
    assert (response.status_code, response.text) == (200, f"hello from {served.framework}")
    assert response.http_version == ("HTTP/2" if served.secure_url in str(client.base_url) else "HTTP/1.1")


def test_form(client):
    response = client.post("/form", data={"name": "jürgen & co", "colour": ["red", "grün"]})
    assert response.json() == {"name": "jürgen & co", "colours": ["red", "grün"]}


def test_form_without_a_length(client):
    """In chunks on HTTP/1.1. Django would not look at a body without CONTENT_LENGTH."""
    response = client.post(
        "/form",
        content=iter([b"name=j%C3%BCrgen&colour=", b"red&colour=blue"]),
        headers={"content-type": "application/x-www-form-urlencoded"},
    )
    assert response.json() == {"name": "jürgen", "colours": ["red", "blue"]}


# CherryPy wants a length or chunks, of which HTTP/2 has neither.
@pytest.mark.parametrize("served", ["flask", "pyramid"], indirect=True)
def test_large_upload_without_a_length(client):
    head = (
        b'--B\r\nContent-Disposition: form-data; name="name"\r\n\r\nn\r\n'
        b'--B\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n'
        b"Content-Type: application/octet-stream\r\n\r\n"
    )
    response = client.post(
        "/upload",
        content=iter([head, CONTENT, b"\r\n--B--\r\n"]),
        headers={"content-type": "multipart/form-data; boundary=B"},
    )
    assert response.json()["sha256"] == hashlib.sha256(CONTENT).hexdigest()


def test_multipart_upload(client):
    file = ("data.bin", CONTENT, "application/octet-stream")
    response = client.post("/upload", data={"name": "jürgen"}, files={"file": file})
    assert response.json() == {
        "name": "jürgen",
        "filename": "data.bin",
        "sha256": hashlib.sha256(CONTENT).hexdigest(),
    }


def test_streamed_pieces_arrive_one_by_one(client, request):
    key = {"key": request.node.name}
    with client.stream("GET", "/stream", params=key) as response:
        pieces = response.iter_raw()
        received = [next(pieces)]
        for _ in range(2):
            # The application cannot have made the next piece yet.
            assert client.post("/ask", params=key, content=b"").text == "asked"
            received.append(next(pieces))
        assert list(pieces) == []
    assert received == [b"piece 0\n", b"piece 1\n", b"piece 2\n"]
    assert "content-length" not in response.headers


def test_session_goes_on_by_its_cookie(client):
    assert [client.get("/visits").json() for _ in range(3)] == [1, 2, 3]
    client.cookies.clear()
    assert client.get("/visits").json() == 1


def test_redirect(client, served):
    response = client.get("/away")
    assert response.status_code == 302
    followed = client.get("/away", follow_redirects=True)
    assert str(followed.url) == str(client.base_url.join("/"))
    assert followed.text == f"hello from {served.framework}"


def test_page_for_what_is_not_there(client):
    response = client.get("/no-such-page")
    assert response.status_code == 404
    assert "text/html" in response.headers["content-type"]
    assert "not found" in response.text.lower()


def test_error_of_the_application(client):
    response = client.get("/broken")
    assert response.status_code == 500
    assert "server error" in response.text.lower()
    assert client.get("/").status_code == 200


def test_static_file(client):
    response = client.get("/static/style.css")
    assert response.content == STATIC.read_bytes()
    assert response.headers["content-type"].startswith("text/css")
    assert response.headers["content-length"] == str(STATIC.stat().st_size)


def test_static_file_is_not_sent_again_when_it_is_known(client):
    known = client.get("/static/style.css").headers["last-modified"]
    response = client.get("/static/style.css", headers={"if-modified-since": known})
    assert (response.status_code, response.content) == (304, b"")


def test_head(client):
    response = client.head("/static/style.css")
    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["content-length"] == str(STATIC.stat().st_size)


def test_file_response(client, served):
    response = client.get("/file")
    source = ROOT / "tests" / "wsgi" / "apps" / f"{served.framework}_app.py"
    assert response.content == source.read_bytes()
    assert response.headers["content-length"] == str(source.stat().st_size)


@pytest.mark.parametrize("served", ["flask", "pyramid", "cherrypy"], indirect=True)  # Django has no ranges
def test_only_some_of_a_file(client, served):
    response = client.get("/file", headers={"range": "bytes=10-29"})
    source = ROOT / "tests" / "wsgi" / "apps" / f"{served.framework}_app.py"
    assert (response.status_code, response.content) == (206, source.read_bytes()[10:30])


# -- Django's admin ------------------------------------------------------------------------------------------------

only_django = pytest.mark.parametrize("served", ["django"], indirect=True)


def submit(client: httpx.Client, path: str, **fields: str) -> httpx.Response:
    """Fill in the form of a page and send it, as a browser does."""
    page = client.get(path)
    assert page.status_code == 200
    token = re.search('name="csrfmiddlewaretoken" value="([^"]+)"', page.text)
    assert token is not None
    url = str(client.base_url.join(path))
    return client.post(path, data={"csrfmiddlewaretoken": token[1], **fields}, headers={"referer": url})


@only_django
def test_admin(client, request):
    name = f"group of {request.node.name}"
    assert client.get("/admin/").headers["location"] == "/admin/login/?next=/admin/"

    refused = submit(client, "/admin/login/", username="admin", password="wrong")
    assert "Please enter the correct username" in refused.text
    entered = submit(client, "/admin/login/?next=/admin/", username="admin", password="admin")
    assert (entered.status_code, entered.headers["location"]) == (302, "/admin/")
    assert "Site administration" in client.get("/admin/").text

    added = submit(client, "/admin/auth/group/add/", name=name)
    assert (added.status_code, added.headers["location"]) == (302, "/admin/auth/group/")
    listed = client.get("/admin/auth/group/").text
    assert name in listed
    assert "was added successfully" in listed  # the message that the session has kept
    assert "was added successfully" not in client.get("/admin/auth/group/").text

    left = submit_logout(client)
    assert "Logged out" in left.text
    assert client.get("/admin/").status_code == 302


def submit_logout(client: httpx.Client) -> httpx.Response:
    page = client.get("/admin/").text
    token = re.search('name="csrfmiddlewaretoken" value="([^"]+)"', page)
    assert token is not None
    url = str(client.base_url.join("/admin/"))
    return client.post("/admin/logout/", data={"csrfmiddlewaretoken": token[1]}, headers={"referer": url})


@only_django
def test_admin_static_files(client):
    import django.contrib.admin

    style = "admin/css/base.css"
    response = client.get(f"/static/{style}")
    assert response.content == (ROOT / django.contrib.admin.__path__[0] / "static" / style).read_bytes()
    assert client.get("/static/admin/css/none.css").status_code == 404


@only_django
def test_form_without_its_token_is_refused(client):
    response = client.post("/admin/login/", data={"username": "admin", "password": "admin"})
    assert response.status_code == 403
