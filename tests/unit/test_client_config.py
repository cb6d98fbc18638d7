"""The user's config as text: what it means, and what is said of what it cannot mean."""

import filecmp
import json
import os
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import msgspec
import pytest

from banger import config
from banger.config import place, schema
from banger.config.values import FileSync, Forward, Settings, VMDefaults
from banger.errors import Failure
from bangerd.config import Config as AdminConfig

TOP = Path(__file__).parents[2]

EVERYTHING = """
default_image_name = "debian-trixie"
default_kernel_name = "debian-bookworm"
ssh_key_path = "~/.ssh/id_vm"
nat = false
tooling = false

[vm_defaults]
vcpu = 4
memory_mib = 4096
disk_size = "1.5G"

[forward]
proxy = false
ca = false
term = false
timezone = false
git = false

[[file_sync]]
host = "~/.aws"
guest = "~/.aws/"

[[file_sync]]
host = "/opt/tools/my script"
guest = "/root/bin//my-script"
mode = "0755"
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    config.settings.cache_clear()
    return tmp_path


@pytest.fixture
def write(home: Path) -> Callable[[str], Path]:
    def put(text: str) -> Path:
        file = home / ".config/banger/config.toml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(0o644)
        return file

    return put


def told(text: str) -> list[str]:
    """Place, sentence and suggestion of each fault in `text`, without the lines between."""
    with pytest.raises(Failure) as caught:
        config.parse(text)
    assert caught.value.code == "InvalidConfig"
    assert caught.value.what.startswith("~/.config/banger/config.toml is not right")
    return [
        line.removeprefix("~/.config/banger/config.toml:")
        for line in caught.value.details
        if not line.startswith("    ")
    ]


def test_every_key_is_understood(home: Path) -> None:
    assert config.parse(EVERYTHING) == Settings(
        default_image_name="debian-trixie",
        default_kernel_name="debian-bookworm",
        ssh_key_path=home / ".ssh/id_vm",
        nat=False,
        tooling=False,
        vm_defaults=VMDefaults(4, 4096, 3 * 2**29),
        forward=Forward(proxy=False, ca=False, term=False, timezone=False, git=False),
        file_sync=(
            FileSync(home / ".aws", "/root/.aws"),
            FileSync(Path("/opt/tools/my script"), "/root/bin/my-script", 0o755),
        ),
    )


def test_nothing_said_is_what_is_built_in() -> None:
    assert config.settings() == config.parse("") == Settings()


def test_schema_and_settings_have_the_same_keys() -> None:
    for table, values in (
        (schema.Config, Settings),
        (schema.VMDefaults, VMDefaults),
        (schema.Forward, Forward),
        (schema.FileSync, FileSync),
    ):
        keys = [field.encode_name for field in msgspec.structs.fields(table)]
        assert keys == [field.name for field in fields(values)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("vm_default.vcpu = 3", ["1:1: unknown key 'vm_default'", "  did you mean vm_defaults?"]),
        ("\n[vm_defaults]\n  cpu = 3", ["3:3: unknown key 'cpu' in vm_defaults", "  did you mean vcpu?"]),
        (
            "default-image-name = 'x'",
            ["1:1: unknown key 'default-image-name'", "  did you mean default_image_name?"],
        ),
        ("memory_mib = 4096", ["1:1: unknown key 'memory_mib'", "  it belongs in [vm_defaults]"]),
        (
            "[forward]\ngit = true\nnat = true",
            ["3:1: unknown key 'nat' in forward", "  it belongs above the first [table]"],
        ),
        ("mode = '0600'", ["1:1: unknown key 'mode'", "  it belongs in [[file_sync]]"]),
        (
            "[forward]\nx = 1",
            ["2:1: unknown key 'x' in forward", "  known here: proxy, ca, term, timezone, git"],
        ),
        ("[vm_defaults]\nvcpu = '4'", ["2:8: vm_defaults.vcpu must be a whole number, 1 or more"]),
        ("[vm_defaults]\nvcpu = 0", ["2:8: vm_defaults.vcpu must be a whole number, 1 or more"]),
        ("[vm_defaults]\nvcpu = true", ["2:8: vm_defaults.vcpu must be a whole number, 1 or more"]),
        (
            "vm_defaults = { disk_size = 16 } # G",
            ['1:29: vm_defaults.disk_size must be a size with a unit, as a string: "16G"'],
        ),
        ("[vm_defaults]\ndisk_size = '99999999999T'", ["2:13: '99999999999T' is no possible disk size"]),
        ("nat = 'yes'", ["1:7: nat must be true or false"]),
        ("forward = true", ["1:11: forward must be a table, not true or false"]),
        ("[file_sync]\nhost = '~/x'", ["1:2: file_sync must be an array of tables, not a table"]),
        ("[[file_sync]]\nhost = '~/x'", ["1:1: guest is missing here", "  add guest = …"]),
        ("x = 1\nx = 2", ["2:6: this is no TOML: Cannot overwrite a value"]),
        ("[vm_defaults", ["1:13: this is no TOML: Expected ']' at the end of a table declaration"]),
        ("x = " + "9" * 5000, None),
        ("x = " + "[" * 5000, None),
    ],
)
def test_faults_have_a_place_and_a_suggestion(text: str, said: list[str] | None) -> None:
    found = told(text)
    if said is None:
        assert len(found) == 1
        assert "this is no TOML" in found[0]
        return
    hints = [line for line in found if line.startswith("  ")]
    assert found[0] == said[0]
    assert hints == said[1:] or (not said[1:] and len(hints) <= 1)


def test_an_octal_number_is_suggested_as_text() -> None:
    text = "[[file_sync]]\nhost = '~/x'\nguest = '~/x'\nmode = 0755"
    assert told(text)[1] == '  write it as a string: "0755"'


def test_all_faults_are_told_in_order_each_with_its_line() -> None:
    text = """# a comment with vcpu = 3
[[file_sync]]
host = "keys"
guest = "~/a"
[[file_sync]]
host = "~/b"
guest = "~/../etc/passwd"
[[file_sync]]
host = "~/c"
guest = "~/c"
mode = "9"
[vm_defaults]
"vcpu" = 1.5  # a half
"""
    found = told(text)
    assert [line.split(": ")[0] for line in found] == ["3:8", "7:9", "11:8", "13:10"]
    with pytest.raises(Failure, match="in 4 places") as caught:
        config.parse(text)
    assert '    "vcpu" = 1.5  # a half' in caught.value.details
    assert "             ^" in caught.value.details


@pytest.mark.parametrize("path", ["keys/id", "./id", "id", "~", "~other/id", "", "$HOME/id"])
def test_a_relative_key_path_is_refused(path: str) -> None:
    assert (
        "must be an absolute path, or one that begins with ~/"
        in told(f"ssh_key_path = {json.dumps(path)}")[0]
    )


@pytest.mark.parametrize(
    "path",
    [
        "~",
        "/root",
        "/root/",
        "~/",
        "/etc/x",
        "/rootkit",
        "~/../x",
        "/root/a/../../etc",
        "a",
        "~/a/./b",
        "~/a\u0000b",
    ],
)
def test_guest_paths_stay_below_the_home(path: str) -> None:
    found = told(f"[[file_sync]]\nhost = '/x'\nguest = {json.dumps(path)}")
    assert found[0].startswith("3:9: file_sync.guest must be a path below ~/ or /root/")


def test_two_entries_for_one_place_are_refused() -> None:
    text = "file_sync = [{host = '/a', guest = '~/x'}, {host = '/b', guest = '/root/x/'}]"
    assert told(text)[0] == "1:66: /root/x/ in the guest is written by an earlier entry already"


def test_keys_of_the_host_are_refused_with_the_reason() -> None:
    found = told('firecracker_bin = "/usr/bin/firecracker"\nsubnet = "10.0.0.0/8"')
    assert found[0] == "1:1: firecracker_bin cannot be set here"
    assert "a user does not choose what the root service runs" in found[1]
    assert "its admin sets it in /etc/banger/banger.toml" in found[3]


def test_every_key_of_the_admin_is_a_users_too_or_explained() -> None:
    users = {field.encode_name for field in msgspec.structs.fields(schema.Config)}
    admins = {field.encode_name for field in msgspec.structs.fields(AdminConfig)}
    assert not admins - users - set(schema.REFUSED)


def test_examples_of_the_schema_are_valid() -> None:
    for table in json.loads(json.dumps(schema.json_schema()))["$defs"].values():
        for name, key in table["properties"].items():
            for example in key.get("examples", []):
                line = f"{name} = {json.dumps(example)}\n"
                where = {
                    "FileSync": "[[file_sync]]\n",
                    "VMDefaults": "[vm_defaults]\n",
                    "Forward": "[forward]\n",
                }
                if table["title"] == "FileSync":
                    line = "".join(f"{key} = '~/x'\n" for key in ("host", "guest") if key != name) + line
                config.parse(where.get(table["title"], "") + line)


# The file itself


def test_xdg_config_home_is_respected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "cfg"))
    assert place.path() == tmp_path / "cfg/banger/config.toml"
    monkeypatch.setenv("XDG_CONFIG_HOME", "cfg")
    assert place.path() == tmp_path / ".config/banger/config.toml"


def test_who_has_no_home_has_no_config(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a number without an account, in a container."""

    def unknown() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setattr(Path, "home", unknown)
    assert config.settings() == Settings()


def test_a_link_to_the_config_is_followed(home: Path, write: Callable[[str], Path]) -> None:
    file = write("nat = false")
    file.rename(home / "dotfile")
    file.symlink_to(home / "dotfile")
    assert config.settings().nat is False


@pytest.mark.parametrize("mode", [0o646, 0o666])
def test_a_config_that_others_write_is_refused(write: Callable[[str], Path], mode: int) -> None:
    file = write("nat = false")
    file.chmod(mode)
    with pytest.raises(Failure, match="other users may write") as caught:
        config.settings()
    assert caught.value.hint == "chmod go-w ~/.config/banger/config.toml"


def test_a_config_of_a_group_of_several_is_refused(write: Callable[[str], Path]) -> None:
    file = write("nat = false")
    if os.getuid() == 0:
        os.chown(file, 0, 100)  # users
    file.chmod(0o664)
    if file.stat().st_gid == 100:
        with pytest.raises(Failure, match="other users may write"):
            config.settings()
    os.chown(file, -1, os.getgid())
    config.settings.cache_clear()
    assert config.settings().nat is False  # the user's own group


@pytest.mark.root
def test_a_config_of_another_user_is_refused(write: Callable[[str], Path]) -> None:
    os.chown(write("nat = false"), 65534, -1)
    with pytest.raises(Failure, match="belongs to another user"):
        config.settings()


def test_what_is_no_text_file_is_refused(home: Path, write: Callable[[str], Path]) -> None:
    file = write("")
    file.write_bytes(b"a = 1\nb = '\xff'\n")
    with pytest.raises(Failure, match="line 2 is no UTF-8"):
        config.settings()
    file.write_bytes(b"#" * (1024 * 1024 + 1))
    with pytest.raises(Failure, match="larger than 1 MiB"):
        config.settings()
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(Failure, match="no regular file"):
        config.settings()
    file.unlink()
    file.mkdir()
    with pytest.raises(Failure, match="no regular file"):
        config.settings()


def test_client_and_service_check_files_alike() -> None:
    twins = TOP / "client/banger/config/tomlfile.py", TOP / "service/bangerd/tomlfile.py"
    assert filecmp.cmp(*twins, shallow=False)
