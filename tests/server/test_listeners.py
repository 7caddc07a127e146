from __future__ import annotations

import errno
import grp
import os
import pwd
import socket
import ssl
import stat
import sys

import pytest
import trio

from trioserve.config import ConfigError, FdBind, TcpBind, UnixBind, UnixSocketSettings
from trioserve.server.listeners import BindError, build_listener, open_listeners

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="abstract sockets are Linux's")


def has_ipv6():
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="no IPv6 here")


def converse(listener, target):
    """A client connects and is accepted; returns the accepted socket."""
    with socket.socket(listener.socket.family, socket.SOCK_STREAM) as client:
        client.settimeout(5)
        client.connect(target)
        accepted, _ = listener.socket.accept()
        client.sendall(b"x")
        accepted.settimeout(5)
        assert accepted.recv(1) == b"x"
        return accepted


async def test_tcp():
    async with open_listeners([TcpBind("127.0.0.1", 0)], backlog=7) as [listener]:
        host, port = listener.address
        assert host == "127.0.0.1"
        assert port > 0
        assert listener.kind == "tcp"
        assert listener.bind == "127.0.0.1:0"
        assert listener.url == f"http://127.0.0.1:{port}"
        assert not listener.socket.getblocking()
        assert not listener.socket.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)
        with converse(listener, listener.address) as accepted:
            if sys.platform == "linux":
                assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert listener.socket.fileno() == -1


@needs_ipv6
async def test_ipv6_is_a_bind_of_its_own():
    async with open_listeners([TcpBind("::", 0)]) as [six]:
        _, port = six.address
        assert six.url == f"http://[::]:{port}"
        async with open_listeners([TcpBind("0.0.0.0", port)]) as [four]:
            assert four.address == ("0.0.0.0", port)
            converse(six, ("::1", port)).close()
            converse(four, ("127.0.0.1", port)).close()


class Resolver(trio.abc.HostnameResolver):
    def __init__(self, *addresses):
        self.addresses = addresses

    async def getaddrinfo(self, host, port, family=0, type=0, proto=0, flags=0):  # noqa: A002
        assert host == b"several.example"
        return [
            (socket.AF_INET6 if ":" in address else socket.AF_INET, type, 6, "", (address, port))
            for address in self.addresses
        ]

    async def getnameinfo(self, sockaddr, flags):
        raise NotImplementedError


def resolve(*addresses):  # for the run of one test
    trio.socket.set_custom_hostname_resolver(Resolver(*addresses))


async def test_a_name_becomes_a_listener_for_each_address_on_the_same_port():
    resolve("127.0.0.1", "127.0.0.2", "127.0.0.1")
    async with open_listeners([TcpBind("several.example", 0)]) as listeners:
        assert [listener.address[0] for listener in listeners] == ["127.0.0.1", "127.0.0.2"]
        assert len({listener.address[1] for listener in listeners}) == 1
        assert {listener.bind for listener in listeners} == {"several.example:0"}


async def test_an_address_that_the_machine_lacks_is_left_out():
    resolve("203.0.113.1", "127.0.0.1")
    async with open_listeners([TcpBind("several.example", 0)]) as listeners:
        assert [listener.address[0] for listener in listeners] == ["127.0.0.1"]
    resolve("203.0.113.1")
    with pytest.raises(BindError, match=r"cannot listen on several\.example:0: Cannot assign"):
        async with open_listeners([TcpBind("several.example", 0)]):
            pass


async def test_an_address_in_use_among_several_is_an_error_and_closes_the_others():
    resolve("127.0.0.2", "127.0.0.1")
    async with open_listeners([TcpBind("127.0.0.1", 0)]) as [first]:
        port = first.address[1]
        with pytest.raises(
            BindError, match=rf"several\.example:{port}: 127\.0\.0\.1: the address is already"
        ):
            async with open_listeners([TcpBind("several.example", port)]):
                pass
        async with open_listeners([TcpBind("127.0.0.2", port)]):
            pass


async def test_an_unknown_name():
    class Nobody(Resolver):
        async def getaddrinfo(self, *args, **options):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    trio.socket.set_custom_hostname_resolver(Nobody())
    with pytest.raises(BindError, match=r"cannot resolve nowhere\.example \(Name or service not known\)$"):
        async with open_listeners([TcpBind("nowhere.example", 80)]):
            pass


async def test_two_servers_cannot_have_the_same_port():
    async with open_listeners([TcpBind("127.0.0.1", 0)]) as [first]:
        port = first.address[1]
        with pytest.raises(BindError) as caught:
            async with open_listeners([TcpBind("127.0.0.1", port)]):
                pass
        assert str(caught.value) == f"cannot listen on 127.0.0.1:{port}: the address is already in use"
        assert caught.value.bind == TcpBind("127.0.0.1", port)


async def test_a_port_is_free_again_at_once():
    async with open_listeners([TcpBind("127.0.0.1", 0)]) as [listener]:
        address = listener.address
        with socket.create_connection(address, timeout=5) as client:
            accepted, _ = listener.socket.accept()
            accepted.close()  # who closes first has the port in TIME_WAIT
            assert client.recv(1) == b""
    async with open_listeners([TcpBind(*address)]) as [listener]:
        assert listener.address == address


async def test_all_binds_or_none(tmp_path):
    path = str(tmp_path / "socket")
    async with open_listeners([TcpBind("127.0.0.1", 0)]) as [first]:
        with pytest.raises(BindError):
            async with open_listeners([UnixBind(path), TcpBind(*first.address)]):
                pass
    assert os.listdir(tmp_path) == []


async def test_tls_shows_in_scheme_and_url(tmp_path):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    binds = [TcpBind("127.0.0.1", 0), UnixBind(str(tmp_path / "socket"))]
    async with open_listeners(binds, ssl_context=context) as [tcp, unix]:
        assert (tcp.scheme, unix.scheme) == ("https", "https")
        assert tcp.url == f"https://127.0.0.1:{tcp.address[1]}"
        assert unix.url == f"https+unix:{tmp_path}/socket"
        assert tcp.ssl_context is unix.ssl_context is context


async def test_unix_socket(tmp_path):
    path = str(tmp_path / "socket")
    umask = os.umask(0o022)
    try:
        async with open_listeners([UnixBind(path)]) as [listener]:
            assert os.listdir(tmp_path) == ["socket"]
            assert stat.S_IMODE(os.stat(path).st_mode) == 0o660
            assert listener.address == path
            assert listener.kind == "unix"
            assert listener.url == f"http+unix:{path}"
            assert not listener.socket.getblocking()
            converse(listener, path).close()
            assert os.umask(0o022) == 0o022
        assert os.listdir(tmp_path) == []
    finally:
        os.umask(umask)


async def test_mode_and_owner_of_a_unix_socket(tmp_path):
    path = str(tmp_path / "socket")
    user, group = pwd.getpwuid(os.getuid()), grp.getgrgid(os.getgid())
    for settings in [
        UnixSocketSettings(mode="602", user=user.pw_name, group=group.gr_name),
        UnixSocketSettings(mode="602", user=str(user.pw_uid), group=str(group.gr_gid)),
    ]:
        async with open_listeners([UnixBind(path)], unix=settings):
            status = os.stat(path)
            assert stat.S_IMODE(status.st_mode) == 0o602
            assert (status.st_uid, status.st_gid) == (user.pw_uid, group.gr_gid)


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away")
async def test_a_unix_socket_can_be_given_away(tmp_path):
    path = str(tmp_path / "socket")
    async with open_listeners([UnixBind(path)], unix=UnixSocketSettings(user="12345", group="23456")):
        assert (os.stat(path).st_uid, os.stat(path).st_gid) == (12345, 23456)


@pytest.mark.parametrize("key", ["user", "group"])
async def test_unknown_owners(tmp_path, key):
    with pytest.raises(ConfigError, match=rf"^\[unix\] {key}: no {key} 'nobody-like-that'$"):
        async with open_listeners(
            [UnixBind(str(tmp_path / "s"))], unix=UnixSocketSettings(**{key: "nobody-like-that"})
        ):
            pass
    assert os.listdir(tmp_path) == []


def leave_stale_socket(path):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
        sock.listen()


async def test_a_stale_socket_is_replaced(tmp_path):
    path = str(tmp_path / "socket")
    leave_stale_socket(path)
    async with open_listeners([UnixBind(path)]) as [listener]:
        converse(listener, path).close()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
async def test_a_socket_in_use_is_left_alone(tmp_path, kind):
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX, kind) as other:
        other.bind(path)
        if kind == socket.SOCK_STREAM:
            other.listen()
        inode = os.stat(path).st_ino
        with pytest.raises(BindError, match=r"socket: another process is listening there$"):
            async with open_listeners([UnixBind(path)]):
                pass
        assert os.stat(path).st_ino == inode


async def test_a_socket_whose_backlog_is_full_is_in_use(tmp_path):
    path = str(tmp_path / "socket")
    async with open_listeners([UnixBind(path)], backlog=1):
        waiting = []
        try:
            while True:
                client = socket.socket(socket.AF_UNIX)
                waiting.append(client)
                client.setblocking(False)
                try:
                    client.connect(path)
                except BlockingIOError:
                    break
            with pytest.raises(BindError, match="another process is listening there"):
                async with open_listeners([UnixBind(path)]):
                    pass
        finally:
            for client in waiting:
                client.close()


@pytest.mark.parametrize("make", ["write_text", "mkdir", "symlink_to"])
async def test_what_is_not_a_socket_is_left_alone(tmp_path, make):
    path = tmp_path / "socket"
    getattr(path, make)(*{"write_text": ["data"], "mkdir": [], "symlink_to": [tmp_path / "x"]}[make])
    with pytest.raises(BindError, match="the path exists and is not a socket"):
        async with open_listeners([UnixBind(str(path))]):
            pass
    assert os.listdir(tmp_path) == ["socket"]
    assert not stat.S_ISSOCK(os.lstat(path).st_mode)


async def test_a_socket_that_somebody_else_put_there_is_not_removed(tmp_path):
    path = str(tmp_path / "socket")
    async with open_listeners([UnixBind(path)]):
        os.unlink(path)
        leave_stale_socket(path)
    assert os.listdir(tmp_path) == ["socket"]


async def test_a_socket_file_that_is_gone_already_is_no_error(tmp_path):
    path = str(tmp_path / "socket")
    async with open_listeners([UnixBind(path)]) as [listener]:
        os.unlink(path)
        listener.close()
        leave_stale_socket(path)
        listener.close()
    assert os.listdir(tmp_path) == ["socket"]


async def test_a_path_that_is_too_long(tmp_path):
    for path in [str(tmp_path / ("x" * 200)), str(tmp_path / "d") + "d" * (104 - len(str(tmp_path))) + "/s"]:
        with pytest.raises(BindError, match=r"the path is too long \(\d+ bytes of at most \d+\)$"):
            async with open_listeners([UnixBind(path)]):
                pass


async def test_a_folder_that_does_not_exist(tmp_path):
    with pytest.raises(BindError, match=r"cannot listen on unix:.*/none/socket: No such file or directory$"):
        async with open_listeners([UnixBind(str(tmp_path / "none" / "socket"))]):
            pass


@linux_only
async def test_abstract_socket():
    name = f"@trioserve-test-{os.getpid()}"
    async with open_listeners([UnixBind(name)]) as [listener]:
        assert listener.address == name
        assert listener.url == f"http+unix:{name}"
        converse(listener, "\0" + name[1:]).close()
        with pytest.raises(BindError, match="the address is already in use"):
            async with open_listeners([UnixBind(name)]):
                pass


@pytest.mark.parametrize("host", ["127.0.0.1", pytest.param("::1", marks=needs_ipv6)])
async def test_inherited_tcp_socket(host):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    parent = socket.socket(family)
    parent.bind((host, 0))
    parent.listen()
    port = parent.getsockname()[1]
    fd = parent.detach()
    os.set_inheritable(fd, True)
    async with open_listeners([FdBind(fd)]) as [listener]:
        assert listener.kind == "fd"
        assert listener.bind == f"fd:{fd}"
        assert listener.address == (host, port)
        assert listener.socket.family == family
        assert not listener.socket.getblocking()
        assert not os.get_inheritable(fd)
        converse(listener, (host, port)).close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


async def test_inherited_unix_socket_is_not_removed(tmp_path):
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as parent:
        parent.bind(path)
        parent.listen()
        async with open_listeners([FdBind(os.dup(parent.fileno()))]) as [listener]:
            assert listener.address == path
            assert listener.url == f"http+unix:{path}"
            converse(listener, path).close()
    assert os.listdir(tmp_path) == ["socket"]


@linux_only
async def test_inherited_abstract_socket():
    with socket.socket(socket.AF_UNIX) as parent:
        parent.bind(f"\0trioserve-fd-{os.getpid()}")
        parent.listen()
        async with open_listeners([FdBind(os.dup(parent.fileno()))]) as [listener]:
            assert listener.address == f"@trioserve-fd-{os.getpid()}"


def open_file(tmp_path):
    return os.open(tmp_path, os.O_RDONLY)


def open_quiet_socket(tmp_path):
    return socket.socket().detach()


def open_datagram_socket(tmp_path):
    return socket.socket(type=socket.SOCK_DGRAM).detach()


@pytest.mark.parametrize(
    ("open_one", "reason"),
    [
        (open_file, "is not a socket"),
        (open_quiet_socket, "is a socket that does not listen"),
        (open_datagram_socket, "is not a stream socket"),
    ],
)
async def test_a_descriptor_that_is_no_listener_is_refused_and_stays_open(tmp_path, open_one, reason):
    fd = open_one(tmp_path)
    try:
        with pytest.raises(BindError) as caught:
            async with open_listeners([FdBind(fd)]):
                pass
        assert str(caught.value) == f"cannot listen on fd:{fd}: descriptor {fd} {reason}"
        os.fstat(fd)
    finally:
        os.close(fd)


async def test_a_descriptor_that_is_not_open():
    fd = os.open("/dev/null", os.O_RDONLY)
    os.close(fd)
    with pytest.raises(BindError, match=f"descriptor {fd} is not open"):
        async with open_listeners([FdBind(fd)]):
            pass


async def test_a_child_knows_the_path_of_an_inherited_unix_socket_from_the_bind(tmp_path):
    bind = UnixBind(str(tmp_path / "socket"))
    async with open_listeners([bind]) as [parents]:
        child = build_listener(parents.socket.dup(), bind)
        assert child.address == parents.address
        assert child.url == parents.url
        child.close()
        assert os.listdir(tmp_path) == ["socket"]


def test_bind_errors_are_operating_system_errors():
    assert issubclass(BindError, OSError)
    assert BindError(TcpBind("::1", 80), "no").errno != errno.EADDRINUSE
    assert str(BindError(TcpBind("::1", 80), "no")) == "cannot listen on [::1]:80: no"
