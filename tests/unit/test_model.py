"""Sizes, names, seeds, config."""

import struct
import zlib
from pathlib import Path

import pytest

from bangerd.config import Config, ConfigError, load
from bangerd.model.errors import InvalidSpec
from bangerd.model.names import generate
from bangerd.model.seed import MAGIC, Seed, Tag
from bangerd.model.sizing import HostSize, Wish, resolve
from bangerd.model.vm import GIB, MIB, check_name

BIG = HostSize(cpus=32, memory=128 * GIB, disk=1000 * GIB)
SMALL = HostSize(cpus=2, memory=2 * GIB, disk=20 * GIB)


def test_defaults_come_from_the_host() -> None:
    sizes = resolve(Wish(), Wish(), BIG)
    assert (sizes.vcpu.value, sizes.memory.value, sizes.disk.value) == (4, 8 * GIB, 8 * GIB)
    assert (sizes.vcpu.origin, sizes.memory.origin, sizes.disk.origin) == ("host", "host", "built-in")


def test_memory_by_the_host_is_of_whole_huge_pages() -> None:
    host = HostSize(cpus=8, memory=8 * 993 * MIB + 12345, disk=100 * GIB)
    assert resolve(Wish(), Wish(), host).memory.value == 992 * MIB
    assert resolve(Wish(memory=993 * MIB), Wish(), host).memory.value == 993 * MIB


def test_a_small_host_gets_the_floor() -> None:
    sizes = resolve(Wish(), Wish(), SMALL)
    assert (sizes.vcpu.value, sizes.memory.value) == (1, 512 * MIB)
    assert sizes.vcpu.origin == sizes.memory.origin == "built-in"


def test_the_request_wins_over_the_config() -> None:
    sizes = resolve(Wish(vcpu=2), Wish(vcpu=8, disk=16 * GIB), BIG)
    assert (sizes.vcpu.value, sizes.vcpu.origin) == (2, "request")
    assert (sizes.disk.value, sizes.disk.origin) == (16 * GIB, "config")


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        (Wish(vcpu=0), "1 to 2"),
        (Wish(vcpu=3), "this host has 2 CPUs"),
        (Wish(memory=127 * MIB), "128 MiB"),
        (Wish(memory=3 * GIB), "3 GiB of memory are not possible here; ask for 128 MiB to 2 GiB"),
        (Wish(memory=512 * MIB + 1), "513 MiB"),
        (Wish(disk=1), "256 MiB"),
        (Wish(disk=21 * GIB), "a disk of 21 GiB is not possible here; ask for 256 MiB to 20 GiB"),
        (Wish(disk=GIB + 1), "whole number"),
    ],
)
def test_sizes_that_no_vm_can_have(wish: Wish, said: str) -> None:
    with pytest.raises(InvalidSpec, match=said):
        resolve(wish, Wish(), SMALL)


def test_sizes_of_the_admin_that_no_vm_can_have_are_named_as_the_admins() -> None:
    with pytest.raises(
        InvalidSpec, match=r"64 vCPUs \(vm_defaults of /etc/banger/banger.toml\) are not possible"
    ):
        resolve(Wish(), Wish(vcpu=64), SMALL)


def test_a_file_system_too_small_for_any_disk() -> None:
    with pytest.raises(InvalidSpec, match="the smallest has 256 MiB, .* that would hold it 24 MiB; give"):
        resolve(Wish(), Wish(), HostSize(cpus=2, memory=2 * GIB, disk=24 * MIB))


@pytest.mark.parametrize("name", ["a", "web", "a-b", "0", "a" * 63])
def test_names(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name", ["", "-", "a-", "-a", "A", "a.b", "a_b", "a" * 64, "web\n", "\u00e4", "\x1b[31m", "a b"]
)
def test_names_that_are_no_labels(name: str) -> None:
    with pytest.raises(InvalidSpec, match="no valid VM name") as caught:
        check_name(name)
    assert str(caught.value).isascii()
    assert str(caught.value).isprintable()


def test_generated_names_are_labels_and_new() -> None:
    taken: set[str] = set()
    for _ in range(6000):
        taken.add(check_name(generate(taken)))
    assert len(taken) == 6000


def test_the_seed() -> None:
    seed = Seed(
        "web",
        "172.16.0.2/24",
        "172.16.0.1",
        ("192.0.2.53",),
        ("image", "data"),
        files=(("/a", 0o600, b"x\0y"),),
        search=(),
    ).encode()
    assert len(seed) % 4096 == 0
    assert seed.startswith(MAGIC)
    length, crc = struct.unpack_from("<II", seed, 8)
    items = seed[16 : 16 + length]
    assert zlib.crc32(items) == crc
    found = []
    while items:
        tag, size = struct.unpack_from("<HI", items)
        found.append((Tag(tag), items[6 : 6 + size]))
        items = items[6 + size :]
    assert found == [
        (Tag.HOSTNAME, b"web"),
        (Tag.ADDRESS, b"172.16.0.2/24"),
        (Tag.GATEWAY, b"172.16.0.1"),
        (Tag.NAMESERVER, b"192.0.2.53"),
        (Tag.DISK, b"\x01image"),
        (Tag.DISK, b"\x02data"),
        (Tag.FILE, b"\x80\x01\x00\x00/a\x00x\x00y"),
    ]


def test_a_seed_that_is_too_large() -> None:
    with pytest.raises(InvalidSpec, match="1 MiB"):
        Seed("web", files=(("/a", 0o600, bytes(2**20)),)).encode()


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "banger.toml"
    path.write_text(text)
    return path


def test_config(tmp_path: Path) -> None:
    path = write(tmp_path, 'vmm = "qemu"\n[vm_defaults]\nvcpu = 4\nmemory_mib = 4096\ndisk_size = "16G"\n')
    config = load(path, required=True)
    assert config.vmm == "qemu"
    assert config.vm_defaults.wish() == Wish(4, 4 * GIB, 16 * GIB)


def test_limits_of_vms(tmp_path: Path) -> None:
    limits = load(write(tmp_path, '[vm_limits]\ndisk_rate = "200M"\n'), required=True).vm_limits
    assert (limits.disk_bytes_per_s, limits.network_bytes_per_s) == (200 * MIB, 0)


def test_no_config(tmp_path: Path) -> None:
    assert load(tmp_path / "none", required=False) == Config()
    with pytest.raises(ConfigError, match="no such file"):
        load(tmp_path / "none", required=True)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("vmmm = 1", r":1:1: unknown key 'vmmm'\n.*\n.*\n  did you mean vmm\?"),
        ("zzz = 1", "known here: subnet, "),
        ("vmm = 1", ':1:7: vmm must be "auto", "firecracker" or "qemu"'),
        ('boot_timeout_s = "1"', ":1:18: boot_timeout_s must be a whole number of seconds"),
        ("boot_timeout_s = true", "must be a whole number of seconds"),
        ("boot_timeout_s = 0", "must be a whole number of seconds"),
        ('vmm = "xen"', 'must be "auto", "firecracker" or "qemu"'),
        ("\n\n uid_first = 999", ":3:14: uid_first must be 1000 or more: those below are the system's"),
        ("uid_first = 2147483647", ":1:13: uid_first and uid_count must end below 2147483648"),
        ('subnet = "10.0.0.1/8"', ":1:10: subnet = .* the network is '10.0.0.0/8'"),
        ('qemu_bin = "qemu"', "absolute"),
        ("allow_shared_host = 1", "must be true or false, not a whole number"),
        ("vm_defaults = 1", ":1:15: vm_defaults must be a table, not a whole number"),
        (
            "[vm_defaults]\ndisk = 1",
            r":2:1: unknown key 'disk' in vm_defaults\n.*\n.*\n  did you mean disk_size\?",
        ),
        ("[vm_defaults]\ndisk_size = 1", "must be a size"),
        ('[vm_defaults]\ndisk_size = "16GG"', "must be a size"),
        ('[vm_defaults]\nvcpu = "2"', "must be a whole number"),
        ("[vm_limits]\ndisk_rate = 1000", "must be bytes per second with a unit"),
        ('[vm_limits]\ndisk_rate = "999999G"', "must be bytes per second with a unit"),
        (r'vm_limits.disk_rate = "1M\n"', "must be bytes per second with a unit"),
        (r'qemu_bin = "/usr/bin/qemu\n"', "must be an absolute path"),
        ('[vm_limits]\nnetwork_rate = "0M"', 'must be bytes per second .* or "0" for no limit'),
        (
            'ssh_key_path = "~/.ssh/id"',
            r":1:1: ssh_key_path cannot be set here\n.*\n.*\n  it is a user's",
        ),
        ("a = = 1", ":1:5: this is no TOML"),
    ],
)
def test_config_nonsense(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        load(write(tmp_path, text), required=True)
    assert "banger.toml" in str(caught.value)
