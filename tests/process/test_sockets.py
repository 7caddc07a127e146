from __future__ import annotations

import os
import socket
import sys

import pytest

from trioserve.config import Config, LoadedConfig, TlsSettings
from trioserve.process.sockets import Activation, SocketSet, find_kept, open_next_sockets, open_sockets
from trioserve.server.listeners import BindError

ANY = "127.0.0.1:0"


@pytest.fixture
def close():
    """Sets to be closed at the end."""
    sets = []
    yield sets.append
    for each in sets:
        each.close()


@pytest.fixture
def certificate(tmp_path):
    file = tmp_path / "both.pem"
    file.write_text("-----BEGIN CERTIFICATE-----\n-----BEGIN PRIVATE KEY-----\n")
    return TlsSettings(certificate=str(file))


def numbers(sockets):
    return [each.fd for each in sockets.describe()]


def answers(path):
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True


# -- what to keep --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wishes", "present", "expected"),
    [
        ([], [], []),
        (["a"], [], [None]),
        (["a"], ["a"], [0]),
        (["b", "a"], ["a", "b"], [1, 0]),
        (["a", "c"], ["a", "b"], [0, None]),
        (["a:0", "a:0"], ["a:0"], [0, None]),
        (["a:0", "a:0"], ["a:0", "b", "a:0"], [0, 2]),
        (["a:0"], ["a:0", "a:0"], [0]),
    ],
)
def test_each_wish_keeps_a_present_bind_that_nobody_else_keeps(wishes, present, expected):
    assert find_kept(wishes, present) == expected


def test_opening_and_describing(tmp_path, close, certificate):
    path = tmp_path / "web.sock"
    config = Config(bind=[ANY, f"unix:{path}"], insecure_bind=[ANY], tls=certificate)
    close(sockets := open_sockets(config))
    described = sockets.describe()
    assert [(each.bind, each.insecure) for each in described] == [
        (ANY, False),
        (f"unix:{path}", False),
        (ANY, True),
    ]
    for each in described:
        with socket.socket(fileno=os.dup(each.fd)) as sock:
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        assert not os.get_inheritable(each.fd)


def test_all_or_nothing(tmp_path):
    path = tmp_path / "web.sock"
    with pytest.raises(BindError):
        open_sockets(Config(bind=[f"unix:{path}", "unix:/does/not/exist.sock"]))
    assert not path.exists()


async def test_the_next_set_shares_what_both_want(tmp_path, close):
    first, second, third = (tmp_path / name for name in ("1.sock", "2.sock", "3.sock"))
    close(former := open_sockets(Config(bind=[ANY, f"unix:{first}", f"unix:{second}"])))
    close(following := await open_next_sockets(Config(bind=[f"unix:{third}", f"unix:{second}", ANY]), former))
    tcp, _, shared = numbers(former)
    assert numbers(following)[1:] == [shared, tcp]
    former.close(but=following)
    assert not first.exists()
    assert answers(second)
    assert answers(third)


async def test_a_reload_that_is_refused_leaves_everything(tmp_path, close):
    first, second = (tmp_path / name for name in ("1.sock", "2.sock"))
    close(former := open_sockets(Config(bind=[f"unix:{first}"])))
    with pytest.raises(BindError):
        await open_next_sockets(Config(bind=[f"unix:{first}", f"unix:{second}", "unix:/none/x"]), former)
    assert answers(first)
    assert not second.exists()

    following = await open_next_sockets(Config(bind=[f"unix:{first}", f"unix:{second}"]), former)
    following.close(but=former)
    assert answers(first)
    assert not second.exists()


async def test_a_socket_whose_file_was_removed_is_opened_anew(tmp_path, close):
    path = tmp_path / "web.sock"
    config = Config(bind=[f"unix:{path}", ANY])
    close(former := open_sockets(config))
    os.unlink(path)
    close(following := await open_next_sockets(config, former))
    assert answers(path)
    assert numbers(following)[1:] == numbers(former)[1:]
    former.close(but=following)
    assert answers(path)


async def test_a_bind_can_become_insecure_and_keep_its_socket(close, certificate):
    close(former := open_sockets(Config(bind=[ANY])))
    config = Config(bind=["127.0.0.1:0"], insecure_bind=["127.0.0.1:0"], tls=certificate)
    close(following := await open_next_sockets(config, former))
    assert numbers(following)[0] == numbers(former)[0]
    assert [each.insecure for each in following.describe()] == [False, True]


def test_a_set_that_is_released_leaves_its_files_until_the_end(tmp_path):
    path = tmp_path / "web.sock"
    sockets = open_sockets(Config(bind=[f"unix:{path}"]))
    with socket.socket(fileno=os.dup(numbers(sockets)[0])):  # a worker that has it still
        sockets.release(admit=True)
        assert answers(path)
    sockets.remove_files()
    assert not path.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems cannot do that")
def test_nobody_is_admitted_any_more_but_to_sockets_of_others(tmp_path):
    ours, theirs = tmp_path / "ours.sock", tmp_path / "theirs.sock"
    with socket.socket(socket.AF_UNIX) as manager:
        manager.bind(str(theirs))
        manager.listen()
        given = os.dup(manager.fileno())
        sockets = open_sockets(Config(bind=[f"unix:{ours}", f"fd:{given}"]))
        with socket.socket(fileno=os.dup(numbers(sockets)[0])):
            assert answers(ours)
            sockets.release(admit=False)
            assert not answers(ours)
        assert answers(theirs)
        sockets.remove_files()


def test_files_of_somebody_else_are_not_removed(tmp_path, close):
    path = tmp_path / "web.sock"
    sockets = open_sockets(Config(bind=[f"unix:{path}"]))
    sockets.release(admit=True)
    close(open_sockets(Config(bind=[f"unix:{path}"])))
    sockets.remove_files()
    assert answers(path)


def test_a_longer_backlog_is_taken_over(tmp_path, close):
    path = tmp_path / "web.sock"
    close(sockets := open_sockets(Config(bind=[f"unix:{path}"])))
    sockets.relisten(1)
    waiting = [socket.socket(socket.AF_UNIX) for _ in range(8)]
    for sock in waiting:
        sock.setblocking(False)
    results = [sock.connect_ex(str(path)) for sock in waiting]
    assert any(results)  # the kernel's queue is full
    sockets.relisten(100)
    assert [sock.connect_ex(str(path)) for sock, result in zip(waiting, results, strict=True) if result] == [
        0
    ] * sum(map(bool, results))
    for sock in waiting:
        sock.close()


def test_an_empty_set():
    assert SocketSet().describe() == ()
    SocketSet().close()


# -- systemd -------------------------------------------------------------------------------------------------------


def environment(pid, count, names=None):
    given = {"LISTEN_PID": str(pid), "LISTEN_FDS": str(count), "PATH": "/bin"}
    return given | ({"LISTEN_FDNAMES": names} if names is not None else {})


def place(names, **settings):
    config = Config(app="main:app", **settings)
    return Activation(names).place(LoadedConfig(config, None)).config


@pytest.mark.parametrize(
    ("environ", "names"),
    [
        (environment(7, 2, "web:insecure"), ("web", "insecure")),
        (environment(7, 1), ("unknown",)),
        (environment(7, 3, "a:b"), ("unknown", "unknown", "unknown")),
        (environment(8, 2, "web:insecure"), ()),
        (environment(7, 0), ()),
        (environment(7, -1), ()),
        (environment(7, "many"), ()),
        ({"LISTEN_FDS": "1"}, ()),
        ({}, ()),
    ],
    ids=str,
)
def test_variables_are_read_and_removed(environ, names):
    assert Activation.take(environ, 7).names == names
    assert not [name for name in environ if name.startswith("LISTEN")]


def test_without_activation_nothing_changes():
    loaded = LoadedConfig(Config(app="main:app"), None)
    assert Activation().place(loaded) is loaded


def test_activated_sockets_take_the_place_of_the_default_bind(caplog):
    config = place(("web", "more"))
    assert config.bind == ("fd:3", "fd:4")
    assert config.insecure_bind == ()
    assert caplog.messages == []


def test_the_name_insecure_means_without_tls(certificate):
    config = place(("insecure", "web", "insecure"), tls=certificate)
    assert config.bind == ("fd:4",)
    assert config.insecure_bind == ("fd:3", "fd:5")


def test_without_tls_every_socket_is_a_bind():
    assert place(("insecure", "web")).bind == ("fd:3", "fd:4")


def test_configured_binds_are_not_served_and_that_is_said(caplog):
    config = place(("web",), bind=["127.0.0.1:1", "unix:/run/x"])
    assert config.bind == ("fd:3",)
    assert caplog.messages == [
        "activated sockets are served, and the configured binds are not: 127.0.0.1:1, unix:/run/x"
    ]


def test_a_configuration_that_names_the_descriptors_decides_itself(caplog):
    settings = {"bind": ["fd:4", "127.0.0.1:1"]}
    assert place(("a", "b"), **settings).bind == ("fd:4", "127.0.0.1:1")
    assert caplog.messages == ["no bind names these activated sockets, which are not used: fd:3"]


def test_a_configured_descriptor_that_was_not_activated_is_a_bind_like_others(caplog):
    assert place(("a",), bind=["fd:9"]).bind == ("fd:3",)
    assert "configured binds are not: fd:9" in caplog.text
