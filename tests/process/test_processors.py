from __future__ import annotations

import os

import pytest

from trioserve.config import ProcessSettings
from trioserve.process.processors import count_processors, count_workers


@pytest.fixture
def affinity(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)


def write(root, files):
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


V2 = "0::/system.slice/app.service\n"
V2_HOME = "sys/fs/cgroup"
V1 = "5:cpu,cpuacct:/docker/abc\n1:name=systemd:/docker/abc\n"
V1_HOME = "sys/fs/cgroup/cpu,cpuacct"

QUOTAS = {
    "no groups": ({}, 16),
    "no limit": ({f"{V2_HOME}/system.slice/app.service/cpu.max": "max 100000\n"}, 16),
    "two and a half": ({f"{V2_HOME}/system.slice/app.service/cpu.max": "250000 100000\n"}, 3),
    "half": ({f"{V2_HOME}/system.slice/app.service/cpu.max": "50000 100000\n"}, 1),
    "more than there are": ({f"{V2_HOME}/system.slice/app.service/cpu.max": "6400000 100000\n"}, 16),
    "a group above ours": (
        {
            f"{V2_HOME}/system.slice/app.service/cpu.max": "max 100000\n",
            f"{V2_HOME}/system.slice/cpu.max": "400000 100000\n",
        },
        4,
    ),
    "the smallest counts": (
        {
            f"{V2_HOME}/system.slice/app.service/cpu.max": "500000 100000\n",
            f"{V2_HOME}/system.slice/cpu.max": "300000 100000\n",
        },
        3,
    ),
    "a path from outside our view": ({f"{V2_HOME}/cpu.max": "200000 100000\n"}, 2),
    "nonsense": ({f"{V2_HOME}/cpu.max": "many\n"}, 16),
    "a period of zero": ({f"{V2_HOME}/cpu.max": "100000 0\n"}, 16),
}


@pytest.mark.usefixtures("affinity")
@pytest.mark.parametrize("name", QUOTAS)
def test_quota_of_control_groups_version_2(tmp_path, name):
    files, expected = QUOTAS[name]
    write(tmp_path, {"proc/self/cgroup": V2} | files)
    assert count_processors(tmp_path) == expected


@pytest.mark.usefixtures("affinity")
@pytest.mark.parametrize(
    ("quota", "expected"), [("-1", 16), ("150000", 2), ("800000", 8), ("0", 16), ("", 16)], ids=str
)
def test_quota_of_control_groups_version_1(tmp_path, quota, expected):
    write(
        tmp_path,
        {
            "proc/self/cgroup": V1,
            f"{V1_HOME}/docker/abc/cpu.cfs_quota_us": quota,
            f"{V1_HOME}/docker/abc/cpu.cfs_period_us": "100000",
        },
    )
    assert count_processors(tmp_path) == expected


def test_affinity_is_never_exceeded(tmp_path, monkeypatch):
    write(tmp_path, {"proc/self/cgroup": V2, f"{V2_HOME}/cpu.max": "800000 100000\n"})
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3}, raising=False)
    assert count_processors(tmp_path) == 1


def test_a_system_without_affinity(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert count_processors(tmp_path) == 5
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert count_processors(tmp_path) == 1


def test_here_it_is_what_the_scheduler_allows_or_less():
    assert 1 <= count_processors() <= len(os.sched_getaffinity(0))


def test_workers_are_a_number_or_as_many_as_processors():
    assert count_workers(ProcessSettings(workers=7)) == 7
    assert count_workers(ProcessSettings(workers="auto")) == count_processors()
