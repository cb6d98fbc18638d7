"""The config as commands see it: shown, edited, and what new VMs get by it."""

import json
import os
import pty
import stat
from pathlib import Path

import pytest

GIB = 1024**3
SIZES = '[vm_defaults]\nvcpu = 3\nmemory_mib = 1536\ndisk_size = "4G"\n'
SYNC = '[[file_sync]]\nhost = "/nonexistent"\nguest = "~/x"\n'


@pytest.fixture
def mine(tmp_path):
    """The config's file, in a folder that `env` names."""
    file = tmp_path / "cfg/banger/config.toml"
    file.parent.mkdir(parents=True)
    return file


@pytest.fixture
def run(lab, tmp_path):
    def call(*words, **env):
        return lab.run(*words, env={"XDG_CONFIG_HOME": str(tmp_path / "cfg"), "HOME": str(tmp_path), **env})

    return call


def body(lab, member):
    return next(call for call in lab.calls() if call["member"] == member)["body"]


# What new VMs get


def test_sizes_of_the_config_are_asked_for_and_named(lab, mine, run):
    mine.write_text(SIZES)
    done = run("vm", "create", "--name", "db", "--vcpu", "2")
    assert done.status == 0
    assert done.err.startswith(
        "spec: 2 vCPU (flag), 1.5 GiB memory (your config), 4 GiB disk (your config), image debian (host)"
    )
    wanted = {"vcpu": 2, "memory": 3 * GIB // 2, "disk": 4 * GIB}
    assert body(lab, "ResolveSpec") == [wanted]
    made = body(lab, "CreateVM")
    assert made[1].pop("ssh_keys")
    assert made == ["db", wanted | {"start": False}]


def test_flags_win_over_every_key(lab, mine, run):
    mine.write_text('default_image_name = "x"\ndefault_kernel_name = "y"\nnat = false\n' + SIZES)
    flags = ["--image", "debian", "--kernel", "k", "--nat", "--vcpu", "1", "--memory", "1G", "--disk", "1G"]
    assert run("vm", "create", *flags).status == 0
    assert body(lab, "ResolveSpec") == [
        {"image": "debian", "kernel": "k", "nat": True, "vcpu": 1, "memory": GIB, "disk": GIB}
    ]


def test_image_kernel_and_nat_of_the_config(lab, mine, run):
    mine.write_text('default_image_name = "debian"\ndefault_kernel_name = "y"\nnat = false\n')
    done = run("vm", "create")
    assert "image debian (your config), kernel y (your config), no network out (your config)" in done.err
    assert body(lab, "ResolveSpec") == [{"image": "debian", "kernel": "y", "nat": False}]


def test_a_size_of_the_config_that_cannot_be_is_named_as_the_configs(lab, mine, run):
    mine.write_text(SIZES)
    lab.set(fail={"ResolveSpec": ["InvalidSpec", "3 vCPUs are not possible here"]})
    done = run("vm", "create")
    assert done.status == 2
    assert "3 vCPUs are not possible here" in done.err
    assert "disk, memory, vcpu came from your config, not from a flag" in done.err


def test_a_wrong_config_makes_no_vm_and_says_where(lab, mine, run):
    mine.write_text("[vm_defaults]\nvcpus = 3\n")
    done = run("vm", "create")
    assert done.status == 1
    assert done.err == (
        f"banger: {str(mine).replace(os.environ.get('HOME', '~~'), '~')} is not right\n".replace(
            str(mine.parents[2]), "~"
        )
        + "  ~/cfg/banger/config.toml:2:1: unknown key 'vcpus' in vm_defaults\n"
        "      vcpus = 3\n"
        "      ^\n"
        "    did you mean vcpu?\n"
        "  next: mend it with `banger config edit`\n"
    )
    assert lab.members() == []
    assert run("vm", "run", "--", "true").status == 125
    error = run("vm", "create", "--json").error
    assert error["error"] == "InvalidConfig"
    assert error["details"][0] == "~/cfg/banger/config.toml:2:1: unknown key 'vcpus' in vm_defaults"


@pytest.mark.parametrize(
    "words", [("--help",), ("vm", "list"), ("config", "path"), ("completion", "bash"), ("vm", "stop", "web")]
)
def test_commands_that_need_no_config_do_not_read_it(mine, run, words):
    mine.write_text("nonsense")
    assert run(*words).status == 0


# file_sync: what it does in a guest is tested in tests/guest


def test_a_new_vm_waits_for_its_files(lab, mine, run):
    mine.write_text(SYNC)
    assert run("vm", "create").status == 0
    assert body(lab, "CreateVM")[1]["labels"] == {"banger.file-sync": "pending"}


def vm_with(label, **more):
    labels = {"banger.file-sync": label, "role": "front"} if label else {"role": "front"}
    return {"name": "web", "state": "running", "owner": os.getuid(), "labels": labels, **more}


def test_show_tells_that_files_wait(lab, run):
    lab.set(vms=[vm_with("pending")])
    text = run("vm", "show", "web").text
    assert "file sync  pending" in text
    assert "role=front" in text
    assert "banger.file-sync" not in text
    lab.set(vms=[vm_with("")])
    assert "file sync" not in run("vm", "show", "web").text


def test_when_a_vm_is_up_nothing_to_send_is_sent_too(lab, mine, run):
    lab.set(vms=[vm_with("pending")])
    done = run("vm", "start", "web")
    assert (done.status, done.err) == (0, "web runs\n")
    assert lab.members() == ["FindVM", "Start", "Describe", "SetLabels"]
    assert body(lab, "SetLabels") == [{"banger.file-sync": ""}, {}]


@pytest.mark.parametrize("facts", [{"labels": {"role": "front"}}, {"owner": os.getuid() + 1}])
def test_files_go_into_ones_own_vm_that_waits_alone(lab, mine, run, facts):
    mine.write_text(SYNC)
    lab.set(vms=[vm_with("pending") | facts])
    assert run("vm", "start", "web").status == 0
    assert lab.members() == ["FindVM", "Start", "Describe"]


def test_files_that_cannot_be_sent_are_told_and_still_wait(lab, mine, run):
    lab.set(vms=[vm_with("pending")])
    mine.write_text("[[file_sync]]\nguest = '~/x'\n")
    done = run("vm", "start", "web")
    assert done.status == 0
    assert "the files of file_sync did not get into web: ~/cfg/banger/config.toml is not right" in done.err
    assert "config.toml:1:1: host is missing here" in done.err
    assert done.err.endswith("web runs\n")
    mine.write_text(SYNC)
    lab.set(fail={"Exec": ["GuestFailed", "the guest does not answer"]})
    done = run("vm", "restart", "web")
    assert (
        "did not get into web: the guest does not answer\n  next: `banger vm restart web` tries again"
        in done.err
    )
    assert "SetLabels" not in lab.members()


# config show, path, schema


def test_show_names_each_value_and_its_place(mine, run):
    mine.write_text('nat = false\n\n[vm_defaults]\ndisk_size = "4G"\n' + SYNC)
    lines = [line.split("  ") for line in run("config", "show").text.splitlines()]
    shown = {words[0]: [word.strip() for word in words if word][1:] for words in lines}
    assert shown["nat"] == ["false", "~/cfg/banger/config.toml:1"]
    assert shown["vm_defaults.disk_size"] == ["4 GiB", "~/cfg/banger/config.toml:4"]
    assert shown["vm_defaults.vcpu"] == ["2", "host"]
    assert shown["ssh_key_path"] == ["~/.local/state/banger/ssh/id_ed25519", "built-in"]
    assert shown["forward.git"] == ["true", "built-in"]
    assert shown["file_sync[0].guest"] == ["/root/x", "~/cfg/banger/config.toml:7"]
    assert shown["file_sync[0].mode"] == ["0600", "built-in"]
    records = {record["key"]: record for record in run("config", "show", "--json").json}
    assert records["vm_defaults.disk_size"] == {
        "key": "vm_defaults.disk_size", "value": 4 * GIB, "origin": "config", "file": str(mine), "line": 4
    }  # fmt: skip
    assert records["vm_defaults.memory_mib"] == {
        "key": "vm_defaults.memory_mib", "value": 512, "origin": "host"
    }  # fmt: skip


def test_show_without_config_and_service(lab, run):
    done = run("config", "show", DBUS_SYSTEM_BUS_ADDRESS="unix:path=/nonexistent")
    assert done.status == 0
    assert ["vm_defaults.vcpu", "-", "service"] in [line.split() for line in done.text.splitlines()]
    assert "~/cfg/banger/config.toml is not there" in done.err


def test_show_of_a_wrong_config(mine, run):
    mine.write_text("vcpu = 3\n")
    done = run("config", "show")
    assert (done.status, done.text) == (1, "")
    assert "it belongs in [vm_defaults]" in done.err


def test_path_and_schema(mine, run):
    assert run("config", "path").text == f"{mine}\n"
    schema = run("config", "schema").json
    assert schema["$defs"]["VMDefaults"]["properties"]["vcpu"]["minimum"] == 1
    assert schema["$defs"]["Config"]["additionalProperties"] is False


def test_doctor_tells_what_new_vms_get_by_the_config(mine, run, lab):
    lab.set(doctor=[])
    mine.write_text(SIZES)
    check = run("doctor", "--json").json[-1]
    assert (check["name"], check["state"]) == ("new VMs", "ok")
    assert check["text"].startswith("3 vCPU (your config), ")
    lab.set(fail={"ResolveSpec": ["InvalidSpec", "3 vCPUs are not possible here"]})
    done = run("doctor")
    assert done.status == 1
    assert "3 vCPUs are not possible here" in done.text


# config edit


def editor(folder: Path, script: str) -> str:
    file = folder / "my editor"
    file.write_text(f'#!/bin/sh\n[ "$1" = --wait ] && shift\n{script}\n')
    file.chmod(0o755)
    return f"'{file}' --wait"


def leftovers(mine):
    return sorted(path.name for path in mine.parent.iterdir())


def test_edit_makes_a_private_file_with_every_key_as_an_example(tmp_path, mine, run):
    mine.parent.rmdir()
    done = run("config", "edit", EDITOR=editor(tmp_path, "sed -i 's/^# //' \"$1\""))
    assert (done.status, done.err) == (0, "~/cfg/banger/config.toml is saved\n")
    assert stat.S_IMODE(mine.stat().st_mode) == 0o600
    assert stat.S_IMODE(mine.parent.stat().st_mode) == 0o700
    done = run("config", "show")  # the examples are right
    assert "file_sync[0].mode       0755" in done.text
    assert "service" not in done.text


def test_edit_keeps_link_and_mode(tmp_path, mine, run):
    real = tmp_path / "dotfile"
    real.write_text("nat = true\n")
    real.chmod(0o640)
    mine.symlink_to(real)
    done = run("config", "edit", EDITOR=editor(tmp_path, "echo 'nat = false' > \"$1\""))
    assert done.status == 0
    assert mine.readlink() == real
    assert real.read_text() == "nat = false\n"
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    assert run("config", "edit", "--json", EDITOR="true").json == {"file": str(mine), "changed": False}


def test_visual_goes_before_editor(tmp_path, mine, run):
    assert run("config", "edit", VISUAL=editor(tmp_path, 'echo nat=true > "$1"'), EDITOR="false").status == 0
    assert mine.read_text() == "nat=true\n"


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo 'vcpu = 3' > \"$1\"", "config.toml:1:1: unknown key 'vcpu'"),
        ("printf '\\377' > \"$1\"", "no UTF-8"),
        ("echo 'nat = true' > \"$1\"; exit 3", "failed with 3"),
        ("kill -9 $$", "failed with -9"),
        ("echo 'nat = true' > \"$1\"; echo '# other' >> \"$REAL\"", "changed by somebody else meanwhile"),
    ],
)
def test_what_is_wrong_changes_nothing(tmp_path, mine, run, script, said):
    mine.write_text("nat = false\n")
    done = run("config", "edit", EDITOR=editor(tmp_path, script), REAL=str(mine))
    assert done.status == 1
    assert said in done.err
    assert mine.read_text() in ("nat = false\n", "nat = false\n# other\n")
    assert leftovers(mine) == ["config.toml"]


def test_a_broken_config_can_be_edited(tmp_path, mine, run):
    mine.write_text("nonsense")
    assert run("config", "edit", EDITOR=editor(tmp_path, "echo 'nat = true' > \"$1\"")).status == 0
    assert run("config", "show").status == 0


@pytest.mark.parametrize("command", ["/nonexistent/editor", "'"])
def test_no_such_editor(mine, run, command):
    done = run("config", "edit", EDITOR=command)
    assert (done.status, leftovers(mine)) == (1, [])
    assert "EDITOR" in done.err


def test_on_a_terminal_one_is_asked_to_mend_it(lab, tmp_path, mine):
    """The first time wrong, the second right."""
    script = 'if [ -e "$0.once" ]; then echo nat=true; else echo nat=3; touch "$0.once"; fi > "$1"'
    ours, theirs = pty.openpty()
    env = {**lab.env, "XDG_CONFIG_HOME": str(tmp_path / "cfg"), "EDITOR": editor(tmp_path, script)}
    client = lab.spawn("config", "edit", stdin=theirs, stdout=theirs, stderr=theirs, env=env)
    os.close(theirs)
    seen = b""
    while b"Edit it again? [Y/n] " not in seen:
        seen += os.read(ours, 4096)
    assert b"config.toml:1:5: nat must be true or false" in seen
    os.write(ours, b"\n")
    assert client.wait(20) == 0
    os.close(ours)
    assert mine.read_text() == "nat=true\n"
    assert leftovers(mine) == ["config.toml"]


def test_ended_while_the_editor_runs_nothing_is_left(lab, tmp_path, mine):
    mine.write_text("nat = false\n")
    env = {**lab.env, "XDG_CONFIG_HOME": str(tmp_path / "cfg")}
    client = lab.spawn("config", "edit", env=env | {"EDITOR": editor(tmp_path, "echo began; exec sleep 60")})
    assert client.stdout.readline() == b"began\n"
    client.terminate()
    _, err = client.communicate(timeout=10)
    assert (client.returncode, err) == (128 + 15, b"banger: ended by SIGTERM\n")
    assert leftovers(mine) == ["config.toml"]
    assert json.loads(json.dumps(mine.read_text())) == "nat = false\n"
