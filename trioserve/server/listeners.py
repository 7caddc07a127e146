"""Binds become listeners: open, listening, non-blocking sockets with the address that they really got.

Opening and closing are here, accepting is not. A Unix socket appears at its path only when it already listens
and has its final owner and mode; it goes away with us unless somebody else has taken the path since. Nobody
gets a port or a path that is in use: SO_REUSEPORT is never set, and a socket file that answers is left alone.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import sys
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from trioserve.config import Bind, FdBind, TcpBind, UnixBind, UnixSocketSettings

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Sequence

SocketAddress: TypeAlias = tuple[Any, ...]
ResolvedAddress: TypeAlias = tuple[int, SocketAddress]
"""A family and an address of it."""

# What sockaddr_un holds, without the zero byte at its end.
_LONGEST_UNIX_PATH: Final = 107 if sys.platform == "linux" else 103
_PASSIVE: Final[dict[str, Any]] = {"type": socket.SOCK_STREAM, "flags": socket.AI_PASSIVE}
# A host name may have addresses that this machine lacks (IPv6 switched off); the others are enough.
_ADDRESS_UNAVAILABLE: Final = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}


class BindError(OSError):
    """A bind that cannot be had; the text is one line, fit for stderr.

    Args:
        bind: what was asked for.
        reason: what is in the way.
    """

    def __init__(self, bind: Bind, reason: str) -> None:
        super().__init__(f"cannot listen on {bind}: {reason}")
        self.bind = bind
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Listener:
    """One listening socket; `close` is for whoever opened it."""

    socket: socket.socket
    bind: str
    kind: Literal["tcp", "unix", "fd"]
    address: tuple[str, int] | str  # host and port, or the path of a Unix socket
    ssl_context: ssl.SSLContext | None = None
    inode: tuple[int, int] | None = None  # device and number of the socket file that is ours to remove

    @property
    def scheme(self) -> Literal["http", "https"]:
        """The scheme of the requests that come in here."""
        return "http" if self.ssl_context is None else "https"

    @property
    def url(self) -> str:
        """Where a user finds us: "http://127.0.0.1:8000", "https+unix:/run/app.sock"."""
        if isinstance(self.address, str):
            return f"{self.scheme}+unix:{self.address}"
        host, port = self.address
        return f"{self.scheme}://[{host}]:{port}" if ":" in host else f"{self.scheme}://{host}:{port}"

    def close(self) -> None:
        """Stop listening, and take the socket file away if it is still ours. May be called again."""
        if self.socket.fileno() != -1:
            self.remove_file()
        self.socket.close()

    def remove_file(self) -> None:
        """Take the socket file away if it is still ours. May be called again, and after `socket` was closed."""
        if self.inode is not None:
            _remove_socket_file(str(self.address), self.inode)


@asynccontextmanager
async def open_listeners(
    binds: Sequence[Bind],
    *,
    backlog: int = 2048,
    unix: UnixSocketSettings | None = None,
    ssl_context: ssl.SSLContext | None = None,
) -> AsyncIterator[list[Listener]]:
    """Open all binds, or none; close them on the way out.

    Args:
        binds: where to listen; a host name with several addresses becomes several listeners.
        backlog: connections that the kernel holds until they are accepted; inherited sockets keep their own.
        unix: mode, user and group of Unix sockets.
        ssl_context: makes all of these binds speak TLS.

    Raises:
        BindError: a bind is in use, does not exist on this machine, or is not what it should be.
        ConfigError: [unix] names an unknown user or group.

    Cancellation can only strike while a host name is looked up, and leaves nothing open.
    """
    listeners: list[Listener] = []
    try:
        for bind in binds:
            addresses = await resolve(bind)
            listeners += open_bind(bind, addresses, backlog=backlog, unix=unix, ssl_context=ssl_context)
        yield listeners
    finally:
        for listener in listeners:
            listener.close()


def open_bind(
    bind: Bind,
    addresses: Sequence[ResolvedAddress],
    *,
    backlog: int = 2048,
    unix: UnixSocketSettings | None = None,
    ssl_context: ssl.SSLContext | None = None,
) -> list[Listener]:
    """Open one bind, which becomes several listeners when its host name has several addresses.

    Args:
        bind: where to listen.
        addresses: those of a TCP bind, as `resolve` or `resolve_blocking` gives them.
        backlog: as for `open_listeners`, and so are `unix` and `ssl_context`.

    Raises:
        BindError: it is in use, does not exist on this machine, or is not what it should be.
        ConfigError: [unix] names an unknown user or group.
    """
    if isinstance(bind, TcpBind):
        return _open_tcp(bind, addresses, backlog, ssl_context)
    if isinstance(bind, UnixBind):
        return [_open_unix(bind, backlog, unix or UnixSocketSettings(), ssl_context)]
    return [_open_inherited(bind, ssl_context)]


def build_listener(sock: socket.socket, bind: Bind, ssl_context: ssl.SSLContext | None = None) -> Listener:
    """Make a listener of a socket that listens already, such as one that a parent process opened for `bind`.

    The bind matters for Unix sockets: the kernel knows only the temporary name which they were created under.
    """
    sock.setblocking(False)
    if sock.family != socket.AF_UNIX:
        # Linux hands it down to every accepted connection, which saves a system call for each.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    kind: Literal["tcp", "unix", "fd"] = (
        "fd" if isinstance(bind, FdBind) else "unix" if isinstance(bind, UnixBind) else "tcp"
    )
    address = bind.path if isinstance(bind, UnixBind) else _bound_address(sock)
    return Listener(sock, str(bind), kind, address, ssl_context)


def _bound_address(sock: socket.socket) -> tuple[str, int] | str:
    name = sock.getsockname()
    if sock.family != socket.AF_UNIX:
        return name[0], name[1]
    return f"@{os.fsdecode(name[1:])}" if isinstance(name, bytes) else str(name)


async def resolve(bind: Bind) -> list[ResolvedAddress]:
    """Return family and address pairs of a TCP bind, each once; none for other binds. Raises `BindError`."""
    import trio  # here, because a supervisor opens its first sockets before it has imported Trio

    if not isinstance(bind, TcpBind):
        return []
    try:
        return _pairs(await trio.socket.getaddrinfo(bind.host.encode(), bind.port, **_PASSIVE))
    except socket.gaierror as error:
        raise _unresolved(bind, error) from None


def resolve_blocking(bind: Bind) -> list[ResolvedAddress]:
    """The same where no Trio runs."""
    if not isinstance(bind, TcpBind):
        return []
    try:
        # Bytes, because a text would go through IDNA, whose tables take a while to load.
        return _pairs(socket.getaddrinfo(bind.host.encode(), bind.port, **_PASSIVE))
    except socket.gaierror as error:
        raise _unresolved(bind, error) from None


def _pairs(found: list[tuple[Any, Any, Any, Any, SocketAddress]]) -> list[ResolvedAddress]:
    return list(dict.fromkeys((int(family), address) for family, _, _, _, address in found))


def _unresolved(bind: TcpBind, error: socket.gaierror) -> BindError:
    return BindError(bind, f"cannot resolve {bind.host} ({error.strerror})")


def _open_tcp(
    bind: TcpBind,
    addresses: Sequence[ResolvedAddress],
    backlog: int,
    ssl_context: ssl.SSLContext | None,
) -> list[Listener]:
    listeners: list[Listener] = []
    unavailable: OSError | None = None
    try:
        for family, address in addresses:
            if bind.port == 0 and listeners:  # the same port on all addresses of a name
                address = (address[0], listeners[0].address[1], *address[2:])
            try:
                sock = _listen_tcp(family, address, backlog)
            except OSError as error:
                if error.errno not in _ADDRESS_UNAVAILABLE:
                    where = "" if address[0] == bind.host else f"{address[0]}: "
                    raise BindError(bind, f"{where}{_explain(error)}") from None
                unavailable = error
                continue
            listeners.append(build_listener(sock, bind, ssl_context))
        if not listeners:
            reason = _explain(unavailable) if unavailable else "the name has no address"
            raise BindError(bind, reason)
    except BaseException:
        for listener in listeners:
            listener.close()
        raise
    return listeners


def _listen_tcp(family: int, address: SocketAddress, backlog: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        # Past connections in TIME_WAIT do not keep us from a restart; a socket that listens still does.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # "[::]" and "0.0.0.0" are two binds; peers never appear as IPv4-mapped addresses.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        sock.listen(backlog)
    except BaseException:
        sock.close()
        raise
    return sock


def _open_unix(
    bind: UnixBind, backlog: int, unix: UnixSocketSettings, ssl_context: ssl.SSLContext | None
) -> Listener:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if bind.path.startswith("@"):
            inode = None
            sock.bind("\0" + bind.path[1:])
            sock.listen(backlog)
        else:
            _refuse_occupied(bind)
            inode = _publish(sock, bind, backlog, unix)
    except BaseException as error:
        sock.close()
        if isinstance(error, OSError) and not isinstance(error, BindError):
            raise BindError(bind, _explain(error)) from None
        raise
    return replace(build_listener(sock, bind, ssl_context), inode=inode)


def _refuse_occupied(bind: UnixBind) -> None:
    """Leave alone what is not a socket, and sockets that somebody serves; stale ones are in nobody's way."""
    try:
        mode = os.lstat(bind.path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise BindError(bind, "the path exists and is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(bind.path)
        except (ConnectionRefusedError, FileNotFoundError):
            return
        except BlockingIOError:  # its backlog is full
            pass
        except PermissionError:
            raise BindError(bind, "a socket is there, and we may not ask whether it is in use") from None
        except OSError as error:
            if error.errno != errno.EPROTOTYPE:  # what a datagram socket in use says
                raise
    raise BindError(bind, "another process is listening there")


def _publish(sock: socket.socket, bind: UnixBind, backlog: int, unix: UnixSocketSettings) -> tuple[int, int]:
    """Create the socket beside its path, finish it, and rename it into place; return device and inode."""
    temporary = Path(bind.path).with_name(f".{os.urandom(4).hex()}")
    longest = max(len(os.fsencode(bind.path)), len(os.fsencode(temporary)))
    if longest > _LONGEST_UNIX_PATH:
        raise BindError(bind, f"the path is too long ({longest} bytes of at most {_LONGEST_UNIX_PATH})")
    user, group = _find_user(unix), _find_group(unix)
    # The umask is the process's: a thread that creates a file just now gets a tighter mode, never a wider.
    umask = os.umask(0o177)
    try:
        sock.bind(str(temporary))
    finally:
        os.umask(umask)
    try:
        sock.listen(backlog)
        if (user, group) != (-1, -1):
            os.chown(temporary, user, group)
        temporary.chmod(unix.mode_bits)
        status = temporary.lstat()
        temporary.rename(bind.path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    return status.st_dev, status.st_ino


def _find_user(unix: UnixSocketSettings) -> int:
    """A user's number; -1, which changes nothing, when none is asked for."""
    import pwd

    if unix.user is None or unix.user.isdecimal():
        return int(unix.user or -1)
    try:
        return pwd.getpwnam(unix.user).pw_uid
    except KeyError:
        raise unix.refuse("user", f"no user {unix.user!r}") from None


def _find_group(unix: UnixSocketSettings) -> int:
    import grp

    if unix.group is None or unix.group.isdecimal():
        return int(unix.group or -1)
    try:
        return grp.getgrnam(unix.group).gr_gid
    except KeyError:
        raise unix.refuse("group", f"no group {unix.group!r}") from None


def _remove_socket_file(path: str, inode: tuple[int, int]) -> None:
    try:
        status = os.lstat(path)
        if (status.st_dev, status.st_ino) == inode:
            Path(path).unlink()
    except OSError:  # gone already, or the folder is no longer ours to change
        pass


def _open_inherited(bind: FdBind, ssl_context: ssl.SSLContext | None) -> Listener:
    """Take over a descriptor; it stays open, and whole, when it is refused."""
    try:
        sock = socket.socket(fileno=bind.fd)
    except OSError as error:
        reason = "is not a socket" if error.errno == errno.ENOTSOCK else "is not open"
        raise BindError(bind, f"descriptor {bind.fd} {reason}") from None
    flaw = _find_flaw(sock)
    if flaw is not None:
        sock.detach()
        raise BindError(bind, f"descriptor {bind.fd} {flaw}")
    sock.set_inheritable(False)  # programs that the application starts have no business with it
    return build_listener(sock, bind, ssl_context)


def _find_flaw(sock: socket.socket) -> str | None:
    if sock.family not in {socket.AF_INET, socket.AF_INET6, socket.AF_UNIX}:
        return "is a socket of an unknown family"
    if sock.type != socket.SOCK_STREAM:
        return "is not a stream socket"
    if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return "is a socket that does not listen"
    return None


def _explain(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "the address is already in use"
    return error.strerror or str(error)
