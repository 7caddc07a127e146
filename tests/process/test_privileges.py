from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys

import pytest

from trioserve.config import ConfigError, ProcessSettings
from trioserve.process.privileges import find_identity

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
ME = pwd.getpwuid(os.geteuid())

CHILD = """
import json, os, sys
first, second = json.loads(sys.argv[1])
sys.path[:] = json.loads(sys.argv[2])  # what is imported later has to be found by another user, too
import pwd
from trioserve.config import ConfigError, ProcessSettings
from trioserve.process.privileges import take_identity
try:
    for settings in (first, second):
        if settings is not None:
            take_identity(ProcessSettings(**settings))
except ConfigError as error:
    print(json.dumps({"error": str(error)}))
else:
    mask = os.umask(0)
    names = ("HOME", "USER", "LOGNAME")
    print(json.dumps({
        "uids": os.getresuid(), "gids": os.getresgid(), "groups": sorted(os.getgroups()), "umask": mask,
        "environment": [os.environ.get(name) for name in names],
    }))
"""


def become(first, second=None, **options):
    arguments = [json.dumps([first, second]), json.dumps(sys.path)]
    options.setdefault("env", {"HOME": "/home-before", "USER": "before"})
    command = [sys.executable, "-c", CHILD, *arguments]
    return json.loads(subprocess.run(command, capture_output=True, check=True, text=True, **options).stdout)


def groups_of(name, gid):
    return sorted(set(os.getgrouplist(name, gid)))


@as_root
@pytest.mark.parametrize("user", ["nobody", str(pwd.getpwnam("nobody").pw_uid)])
def test_a_user_brings_its_groups_and_home(user):
    nobody = pwd.getpwnam("nobody")
    result = become({"user": user})
    assert result["uids"] == [nobody.pw_uid] * 3
    assert result["gids"] == [nobody.pw_gid] * 3
    assert result["groups"] == groups_of("nobody", nobody.pw_gid)
    assert result["environment"] == [nobody.pw_dir, "nobody", "nobody"]


@as_root
def test_a_group_replaces_that_of_the_user():
    result = become({"user": "nobody", "group": "daemon"})
    assert result["gids"] == [1, 1, 1]
    assert result["groups"] == groups_of("nobody", 1)


@as_root
def test_numbers_without_an_account():
    result = become({"user": "54321", "group": "54322"})
    assert result["uids"] == [54321] * 3
    assert result["gids"] == [54322] * 3
    assert result["groups"] == [54322]
    assert result["environment"] == ["/home-before", "before", None]


@as_root
def test_a_group_alone_leaves_the_user():
    result = become({"group": "daemon"})
    assert result["uids"] == [0, 0, 0]
    assert result["gids"] == [1, 1, 1]
    assert result["groups"] == [1]
    assert result["environment"][0] == "/home-before"


@as_root
def test_there_is_no_way_back():
    result = become({"user": "nobody"}, {"user": "root"})
    assert result == {"error": "[process] user: only root can become user root"}


@as_root
def test_another_group_without_being_root():
    result = become({"user": "nobody"}, {"group": "daemon"})
    assert result == {"error": "[process] group: only root can become group daemon"}


def test_what_we_are_already_changes_nothing():
    for name in (ME.pw_name, str(ME.pw_uid)):
        result = become({"user": name, "umask": "027"})
        assert result["uids"] == [ME.pw_uid] * 3
        assert result["groups"] == sorted(os.getgroups())
        assert result["umask"] == 0o27
        assert result["environment"][0] == "/home-before"


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"user": "nobody-of-this-name"}, r"\[process\] user: no user nobody-of-this-name"),
        ({"group": "nobody-of-this-name"}, r"\[process\] group: no group nobody-of-this-name"),
        ({"user": "54321"}, r"\[process\] user: 54321 has no account, so the group has to be named"),
        ({"user": "4294967295", "group": "1"}, r"\[process\] user: no user can have a number as large"),
        ({"user": ME.pw_name, "group": "9" * 30}, r"\[process\] group: no group can have a number as large"),
    ],
)
def test_mistakes_are_found_and_name_the_key(settings, reason):
    with pytest.raises(ConfigError, match=reason):
        find_identity(ProcessSettings(**settings))


def test_log_files_change_hands_only_with_the_user():
    assert find_identity(ProcessSettings()).owner is None
    assert find_identity(ProcessSettings(user=ME.pw_name)).owner is None
    assert find_identity(ProcessSettings(user="54321", group="54322")).owner == (54321, 54322)
