"""What the commands print, send and return."""

import json
import re

import pytest

GIB = 1024**3
FULL = {
    "name": "web", "state": "running", "owner": 0, "owner_name": "root", "image": "0123456789ab", "vcpu": 2,
    "memory": 2 * GIB, "disk": 8 * GIB, "address": "172.16.0.5", "created_at": 1, "ephemeral": False, "nat": True,
    "labels": {"role": "front"}, "kernel": "ba9876543210", "vmm": "qemu", "new_fact": "x",
    "image_name": "debian",
}  # fmt: skip
FOREIGN = {"name": "other", "state": "stopped", "owner": 4242, "owner_name": "eve"}


def test_list_is_a_table(lab):
    lab.set(vms=[FULL, FOREIGN])
    done = lab.run("vm", "list")
    assert done.status == 0
    head, row = done.text.splitlines()
    assert head.split() == ["NAME", "STATE", "OWNER", "IMAGE", "VCPU", "MEMORY", "ADDRESS", "AGE"]
    assert re.split("  +", row)[:7] == ["web", "running", "root", "debian", "2", "2 GiB", "172.16.0.5"]
    assert "\x1b" not in done.text
    assert done.err == ""


def test_list_all_shows_what_everybody_may_see(lab):
    lab.set(vms=[FULL, FOREIGN])
    done = lab.run("vm", "list", "--all")
    assert done.text.splitlines()[2].split() == ["other", "stopped", "eve", "-", "-", "-", "-", "-"]


def test_list_json_has_plain_numbers(lab):
    lab.set(vms=[FULL])
    done = lab.run("vm", "list", "--json")
    assert done.json == [FULL]


def test_list_reads_all_pages(lab):
    lab.set(vms=[{**FOREIGN, "name": f"vm{n}", "owner": 0} for n in range(7)], page=3)
    done = lab.run("vm", "list", "--json")
    assert [vm["name"] for vm in done.json] == [f"vm{n}" for n in range(7)]
    assert lab.members().count("ListVMs") == 3


def test_list_of_nothing_says_what_to_do(lab):
    lab.set(vms=[])
    done = lab.run("vm", "list")
    assert (done.status, done.text) == (0, "")
    assert "banger vm run" in done.err
    assert lab.run("vm", "list", "--json").json == []


def test_no_escape_of_a_guest_reaches_the_table(lab):
    lab.set(vms=[{**FULL, "image_name": "\x1b]0;owned\x07evil"}])
    done = lab.run("vm", "list")
    assert "\x1b" not in done.text
    assert "\\x1b]0;owned\\x07evil" in done.text


def test_show_groups_all_there_is(lab):
    lab.set(vms=[FULL])
    text = lab.run("vm", "show", "web").text
    for part in (
        "8 GiB",
        "172.16.0.5",
        "role=front",
        "root (uid 0)",
        "qemu",
        "new fact",
        "1970-01-01",
        "debian (0123",
    ):
        assert part in text
    assert text.count("debian") == 1
    assert lab.run("vm", "show", "web", "--json").json == FULL


@pytest.mark.parametrize(
    ("verb", "member"),
    [
        ("start", "Start"), ("stop", "Stop"), ("restart", "Restart"), ("kill", "Kill"),
        ("pause", "Pause"), ("resume", "Resume"), ("delete", "Delete"),
    ],
)  # fmt: skip
def test_verbs(lab, verb, member):
    done = lab.run("vm", verb, "web")
    assert (done.status, done.text) == (0, "")
    assert done.err.startswith("web ")
    looks = ["Describe"] if verb in ("start", "restart") else []  # for what its owner's files wait for
    assert lab.members() == ["FindVM", member, *looks]
    assert lab.run("vm", verb, "web", "--json").json == [{"name": "web", "done": verb}]
    assert lab.run("vm", verb, "-q", "web").err == ""


def test_of_several_one_that_fails_does_not_stop_the_rest(lab):
    lab.set(vms=[FULL, {**FULL, "name": "db"}])
    done = lab.run("vm", "stop", "web", "nothere", "db")
    assert done.status == 1
    assert "no VM named 'nothere'" in done.err
    assert lab.members() == ["FindVM", "Stop", "FindVM", "FindVM", "Stop"]


def test_create_sends_what_was_asked_and_prints_the_name(lab):
    argv = (
        "--name",
        "db",
        "--vcpu",
        "3",
        "--memory",
        "1.5G",
        "--disk",
        "4G",
        "--image",
        "debian",
        "--no-nat",
    )
    done = lab.run("vm", "create", *argv)
    assert (done.status, done.text) == (0, "db\n")
    assert done.err.startswith("spec: 3 vCPU (flag), 1.5 GiB memory (flag), 4 GiB disk (flag)")
    wanted = {"vcpu": 3, "memory": 3 * GIB // 2, "disk": 4 * GIB, "image": "debian", "nat": False}
    create = next(call for call in lab.calls() if call["member"] == "CreateVM")
    assert create["body"] == ["db", wanted | {"start": False, "ssh_keys": lab.ssh_keys}]
    assert next(call for call in lab.calls() if call["member"] == "ResolveSpec")["body"] == [wanted]


def test_a_name_is_made_up_by_the_service(lab):
    done = lab.run("vm", "create", "-q")
    assert (done.status, done.text, done.err) == (0, "keen_otter\n", "")
    assert next(call for call in lab.calls() if call["member"] == "CreateVM")["body"] == [
        "",
        {"start": False, "ssh_keys": lab.ssh_keys},
    ]


def test_a_missing_image_is_pulled_first(lab):
    lab.set(images=["debian"])
    done = lab.run("vm", "create", "--image", "trixie")
    assert done.status == 0
    assert lab.members()[:3] == ["ResolveSpec", "PullImage", "CreateVM"]
    assert next(call for call in lab.calls() if call["member"] == "PullImage")["body"] == ["trixie", {}]


def test_images_kernels_jobs(lab):
    assert lab.run("image", "list").text.splitlines()[1].split("  ")[0] == "debian"
    assert lab.run("image", "list", "--json").json[0]["size"] == 123456789
    assert "6.1.0" in lab.run("kernel", "list").text
    done = lab.run("image", "delete", "nothere", "debian")
    assert done.status == 1
    assert "nothere" in done.err.splitlines()[0]
    assert done.err.endswith("image debian is deleted\n")
    assert lab.run("image", "delete", "nothere").status == 1
    assert lab.run("image", "pull").status == 0
    jobs = lab.run("job", "list", "--json").json
    assert [job["type"] for job in jobs] == ["delete-image", "pull"]
    assert lab.run("job", "list").text.splitlines()[0].split()[:2] == ["JOB", "WHAT"]
    assert lab.run("job", "cancel", "1").status == 0
    assert lab.run("job", "cancel", "one").status == 2


def test_doctor(lab):
    good = {"name": "disk", "state": "ok", "text": "70 GiB free", "hint": ""}
    bad = {"name": "vmm", "state": "failed", "text": "no KVM", "hint": "enable it"}
    lab.set(doctor=[good])
    assert lab.run("doctor").status == 0
    lab.set(doctor=[good, bad])
    done = lab.run("doctor")
    assert done.status == 1
    assert "vmm: enable it" in done.err
    assert lab.run("doctor", "--json").json[-2:] == [good, bad]


def test_doctor_of_the_users_side(mortal, tmp_path):
    def checks(**env):
        done = mortal.run("doctor", "--json", env=env)
        return done.status, {check["name"]: check for check in done.json}

    mortal.set(doctor=[])
    (tmp_path / "home/.local/share/bash-completion/completions").mkdir(parents=True)
    status, found = checks(HOME=str(tmp_path / "home"), SHELL="/bin/bash")
    assert (status, {check["state"] for check in found.values()}) == (0, {"ok"})
    assert found["config"]["text"] == "none, so built-in values"
    # That of the account, whatever HOME is: not ours to write.
    assert found["ssh-config"]["text"].startswith(("not installed; ", "installed"))
    assert found["completion"]["text"].startswith(
        ("none found for bash; ", "bash: /usr/")
    )  # installed here?
    (tmp_path / "home/.local/share/bash-completion/completions/banger").touch()
    assert (
        "completions/banger"
        in checks(HOME=str(tmp_path / "home"), SHELL="/bin/bash")[1]["completion"]["text"]
    )

    (tmp_path / "home/.config/banger").mkdir(parents=True, exist_ok=True)
    (tmp_path / "home/.config/banger/config.toml").write_text("tolling = false\n")
    (tmp_path / "bin").mkdir()
    status, found = checks(HOME=str(tmp_path / "home"), PATH=str(tmp_path / "bin"))
    assert (status, found["config"]["state"]) == (1, "failed")
    assert "tooling" in found["config"]["text"]
    assert found["git"] == {
        "name": "git", "state": "warning", "text": "not on PATH",
        "hint": "install git: `banger vm run FOLDER` asks it which files belong to a repository",
    }  # fmt: skip
    assert found["ssh"]["state"] == "warning"

    mortal.end()
    status, found = checks(HOME=str(tmp_path))
    assert (status, found["service"]["state"], found["git"]["state"]) == (1, "failed", "ok")
    assert "systemctl status banger" in found["service"]["hint"]


def test_version(mortal):
    assert mortal.run("version", "--json").json == {"client": "0.1.0", "service": "9.9.9"}
    mortal.end()
    done = mortal.run("version", "--json")
    assert (done.status, done.json["service"]) == (0, None)


def test_a_log_is_shown_without_what_acts_on_a_terminal(lab):
    lab.set(log="boot\x1b[2J\x1b]0;title\x07 \x1b[31mred\x1b[0m\r\nlogin: \x1b[6n")
    assert lab.run("vm", "logs", "web").out == b"boot red\nlogin: \n"
    assert (
        lab.run("vm", "logs", "web", "--raw").out
        == b"boot\x1b[2J\x1b]0;title\x07 \x1b[31mred\x1b[0m\r\nlogin: \x1b[6n"
    )
    lines = [json.loads(line) for line in lab.run("vm", "logs", "web", "--json").text.splitlines()]
    assert lines == [{"line": "boot red"}, {"line": "login: "}]


def test_a_followed_log_ends_with_its_vm(lab):
    lab.set(log="one\n")
    client = lab.spawn("vm", "logs", "-f", "web")
    assert client.stdout.readline() == b"one\n"
    lab.set(log="one\ntwo\n")  # a new file: the old one was full
    assert client.stdout.readline() == b"one\n"
    assert client.stdout.readline() == b"two\n"
    lab.set(vms=[{**FULL, "state": "stopped"}])
    _, err = client.communicate(timeout=10)
    assert (client.returncode, err) == (0, b"")


def test_completion_knows_the_names_of_vms(mortal):
    done = mortal.run("__complete", "vm", "stop", "")
    assert "web" in done.text.splitlines()
    assert "debian" in mortal.run("__complete", "vm", "run", "--image", "").text.splitlines()
    mortal.end()
    done = mortal.run("__complete", "vm", "stop", "")
    assert (done.status, done.err) == (0, "")
    assert "web" not in done.text


def test_completion_without_a_bus_is_silent(lab):
    done = lab.run("__complete", "vm", "stop", "", env={"DBUS_SYSTEM_BUS_ADDRESS": "unix:path=/nonexistent"})
    assert (done.status, done.err) == (0, "")
