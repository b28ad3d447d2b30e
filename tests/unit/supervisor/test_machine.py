"""What the machine has: fake files stand for cgroups and devices."""

from __future__ import annotations

import psutil
import pytest

from core.supervisor.machine import guess, has_device, host_bytes, size_on_disk
from core.supervisor.memory import Bytes

MIB = 1 << 20


@pytest.fixture
def root(tmp_path):
    """Write files of a made-up system and return its root."""

    def root(**files: str):
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return root


CGROUP = "proc/self/cgroup"


def test_without_cgroups_it_is_the_machines(tmp_path):
    assert host_bytes(tmp_path) == psutil.virtual_memory().total


def test_the_second_version_of_cgroups(root):
    here = root(**{CGROUP: "0::/app.slice/gateway\n", "sys/fs/cgroup/app.slice/gateway/memory.max": f"{64 * MIB}\n"})
    assert host_bytes(here) == 64 * MIB


def test_the_first_version_of_cgroups(root):
    here = root(
        **{
            CGROUP: "9:cpu,cpuacct:/a\n4:memory:/a/b\n0::/\n",
            "sys/fs/cgroup/memory/a/b/memory.limit_in_bytes": f"{64 * MIB}\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        }
    )
    assert host_bytes(here) == 64 * MIB


def test_the_narrowest_of_nested_groups_counts(root):
    here = root(
        **{
            CGROUP: "0::/a/b\n",
            "sys/fs/cgroup/a/memory.max": f"{32 * MIB}",
            "sys/fs/cgroup/a/b/memory.max": f"{64 * MIB}",
        }
    )
    assert host_bytes(here) == 32 * MIB


def test_a_container_finds_its_own_group_at_the_root_of_the_mount(root):
    here = root(**{CGROUP: "4:memory:/docker/1234\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{64 * MIB}"})
    assert host_bytes(here) == 64 * MIB


def test_a_group_without_a_limit_is_the_machine(root):
    here = root(**{CGROUP: "0::/a\n", "sys/fs/cgroup/a/memory.max": "max\n"})
    assert host_bytes(here) == psutil.virtual_memory().total


def test_this_machine_can_be_asked():
    assert 0 < host_bytes() <= psutil.virtual_memory().total


@pytest.mark.parametrize("file", ["dev/nvidia0", "dev/kfd", "dev/dxg"])
def test_a_device_is_known_by_its_drivers_file(root, file):
    assert has_device(root(**{file: ""}))


def test_no_device(tmp_path):
    assert not has_device(tmp_path)


def test_the_size_of_weights(tmp_path):
    (tmp_path / "m" / "data").mkdir(parents=True)
    (tmp_path / "m" / "a").write_bytes(bytes(10))
    (tmp_path / "m" / "data" / "b").write_bytes(bytes(5))
    assert size_on_disk(tmp_path / "m") == 15
    assert size_on_disk(tmp_path / "m" / "a") == 10
    assert size_on_disk(tmp_path / "nothing") == 0
    assert size_on_disk(None) == 0


def test_what_is_declared_is_believed_before_the_size_of_the_weights():
    assert guess(declared_bytes=7, weights_bytes=5, on_device=False) == (Bytes(host=7), "as declared")


def test_weights_need_room_for_caches_and_a_runtime_too():
    memory, known = guess(declared_bytes=0, weights_bytes=100 * MIB, on_device=False)
    assert (memory, known) == (Bytes(host=712 * MIB), "guessed from the size of its weights")


def test_on_a_machine_with_a_device_a_guess_says_nothing_of_the_host():
    assert guess(declared_bytes=7, weights_bytes=0, on_device=True)[0] == Bytes(device=7)


def test_of_a_model_without_weights_nothing_is_known():
    assert guess(declared_bytes=0, weights_bytes=0, on_device=False) == (Bytes(), "")
