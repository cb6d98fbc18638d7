"""Images of a registry and of files, booted: a real registry beside the machine, and images that lack everything."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guest.machine import ALICE, BOB, Machine, User
from tests.ocilayout import Layout, folder, hardlink, member, symlink, tar
from tests.patience import patience, until
from tests.registry import LocalRegistry

pytestmark = pytest.mark.needs("docker-registry", "skopeo", "sqfstar", "zstd")

REGISTRY = "127.0.0.1:5000"
# Alice may pull what she likes; Bob only from the catalog.
RULE = f"""
polkit.addRule(function(action, subject) {{
    if (action.id == "com.thaloco.banger1.image.pull-any" && subject.user == "{ALICE}"
        && action.lookup("registry") == "{REGISTRY}")
        return polkit.Result.YES;
}});
"""
SMALL = ("--memory", "256M", "--vcpu", "1")
APPLETS = ("sh", "id", "cat", "stat", "ls", "httpd", "wget", "tr", "sleep", "true")


@pytest.fixture(scope="module")
def machine(cache: Path, library: Path) -> Iterator[Machine]:
    """One with a registry that only it reaches."""
    place = cache / f"oci-{os.getpid()}"
    place.mkdir()
    made = Machine(f"bgo{os.getpid()}", place, library, f'insecure_registries = ["{REGISTRY}"]', RULE)
    try:
        made.start()
        registry = LocalRegistry(place / "registry", 5000, made.netns.within)
        try:
            fill(registry, Layout(place / "layout"))
            yield made
        finally:
            registry.close()
    finally:
        made.close()
        shutil.rmtree(place)


def fill(registry: LocalRegistry, layout: Layout) -> None:
    busybox = Path("/bin/busybox").read_bytes()
    box = [
        tar([folder("bin"), member("bin/busybox", busybox, mode=0o755), member("gone", b"1"),
             *(symlink(f"bin/{name}", "busybox") for name in APPLETS)]),
        tar([member("data/file", b"content", mode=0o640, uid=70_000, gid=80_000), hardlink("data/link", "data/file"),
             member(".wh.gone")]),
    ]  # fmt: skip
    layout.image("box", box, config={"Cmd": ["/bin/sh"], "Env": ["PATH=/bin", "GREETING=hello  there"]})
    # No shell, no tar, no /etc, no folder but the root.
    layout.image(
        "bare", [tar([member("echo", busybox, mode=0o755)])], compress="zstd", config={"Cmd": ["/echo"]}
    )
    web = tar(
        [member("srv/index.html", b"served"), folder("sbin"), member("sbin/init", b"no init", mode=0o755)]
    )
    config = {"Entrypoint": ["httpd", "-f"], "Cmd": ["-p", "8080"], "Env": ["PATH=/bin"]}
    layout.image("web", [*box, web], config={**config, "WorkingDir": "srv", "User": "1234:4321"})
    for name in ("box", "bare", "web"):
        registry.push(f"oci:{layout.path}:{name}", f"team/{name}:1")


def images(user: User) -> dict[str, str]:
    return {image["name"]: image["id"] for image in user.json("image", "list")}


def work(machine: Machine) -> list[Path]:
    return list((machine.state / "work").iterdir())


def test_an_image_of_a_registry(alice: User, machine: Machine) -> None:
    said = alice.banger("image", "pull", f"{REGISTRY}/team/box:1", "--as", "box")
    assert said.status == 0, said
    assert "box is here; `banger vm run --image box` uses it" in said.err
    script = (
        "echo $GREETING; id -u; cat /data/file; stat -c '%a %u %g %h' /data/link; ls /gone; cat /proc/1/comm; "
        " ls -d /proc/1 /tmp /sys/kernel"
    )
    done = alice.banger("vm", "run", "--rm", *SMALL, "--image", "box", "--", "/bin/sh", "-c", script)
    assert done.out.splitlines() == [
        "hello there", "0", "content640 70000 80000 2", "init", "/proc/1", "/sys/kernel", "/tmp",
    ], done  # fmt: skip
    assert "/gone: No such file" in done.err
    row = next(line for line in alice.ok("image", "list").splitlines() if line.startswith("box "))
    assert "you" in row
    assert f"{REGISTRY}/team/box:1" in row
    shown = alice.json("image", "show", "box")
    assert shown["entrypoint"] == ["/bin/sh"]
    assert shown["manifest"].startswith("sha256:")
    start = time.monotonic()
    again = alice.ok("image", "pull", f"{REGISTRY}/team/box@{shown['manifest']}", "--as", "box", "--json")
    assert json.loads(again) == {"pulled": f"{REGISTRY}/team/box@{shown['manifest']}"}
    assert time.monotonic() - start < patience(10)
    assert work(machine) == []


def test_an_image_without_anything_is_pulled_when_it_is_wanted(alice: User) -> None:
    """Neither shell nor tar nor /etc/passwd."""
    name = f"{REGISTRY}/team/bare:1"
    assert (
        alice.ok("vm", "run", "--rm", *SMALL, "--image", name, "--", "/echo", "two  words", "*")
        == "two  words *\n"
    )
    assert name in images(alice)
    alice.ok("image", "delete", name)
    assert name not in images(alice)


def test_the_images_command(alice: User) -> None:
    """It runs when the machine boots, as the user and in the folder that the image says."""
    alice.ok("image", "pull", f"{REGISTRY}/team/web:1", "--as", "web")
    alice.ok("vm", "create", *SMALL, "--name", "site", "--image", "web")
    alice.ok("vm", "start", "site")
    try:
        script = "until wget -qO- http://127.0.0.1:8080/index.html 2>/dev/null; do sleep 0.1; done"
        assert alice.ok("vm", "exec", "site", "--", "sh", "-c", script) == "served"
        script = "for p in /proc/[0-9]*; do tr '\\0' ' ' <$p/cmdline; stat -c ' %u %g' $p; done"
        lines = alice.ok("vm", "exec", "site", "--", "sh", "-c", script).splitlines()
        assert "httpd -f -p 8080  1234 4321" in lines
    finally:
        alice.ok("vm", "delete", "site")
    # A command of one's own does without it, and its end is not the machine's.
    assert (
        alice.ok("vm", "run", "--rm", *SMALL, "--image", "web", "--", "cat", "/srv/index.html") == "served"
    )
    failed = alice.banger("image", "delete", "nothing")
    assert "no image named 'nothing' here" in failed.err
    alice.ok("image", "delete", "web")


def test_others(alice: User, machine: Machine) -> None:
    bob = machine.user(BOB)
    alice.ok("image", "pull", f"{REGISTRY}/team/box:1", "--as", "mine")
    assert "mine" not in bob.ok("image", "list")
    assert "mine" in bob.ok("image", "list", "--all")
    for name in ("mine", images(alice)["mine"]):
        refused = bob.banger("vm", "create", *SMALL, "--image", name)
        assert (
            refused.status,
            "NoSuchImage" in bob.banger("vm", "create", "--image", name, "--json").err,
        ) == (1, True)
    assert "needs com.thaloco.banger1.image.manage-others" in bob.banger("image", "delete", "mine").err
    refused = bob.banger("image", "pull", f"{REGISTRY}/team/box:1")
    assert refused.status == 1
    assert (
        f"getting an image from registry '{REGISTRY}' needs com.thaloco.banger1.image.pull-any"
        in refused.err
    )
    short = alice.banger("image", "pull", "alpine")
    assert "docker.io/library/alpine" in short.err
    assert (short.status, alice.banger("image", "pull", "library/alpine").status) == (1, 2)
    alice.ok("image", "delete", "mine")


@pytest.mark.parametrize("how", ["file", "pipe"])
def test_a_root_file_system_of_ones_own(alice: User, machine: Machine, how: str) -> None:
    rootfs = tar(
        [member("bin/busybox", Path("/bin/busybox").read_bytes(), mode=0o755), symlink("bin/cat", "busybox"),
         member("etc/motd", b"my own\n")]
    )  # fmt: skip
    packed = subprocess.run(["zstd", "-cq"], input=rootfs, stdout=subprocess.PIPE, check=True).stdout
    if how == "file":
        file = alice.home / "rootfs.tar.zst"
        file.write_bytes(packed)
        file.chmod(0o600)
        shutil.chown(file, ALICE)
        alice.ok("image", "register", "own", str(file))
        file.unlink()
    else:
        alice.ok("image", "import", "own", "-", stdin=packed)
    again = alice.banger("image", "import", "own", "-", stdin=packed)
    assert "you have an image named 'own' already; delete it, or choose another name" in again.err
    assert (
        alice.ok("vm", "run", "--rm", *SMALL, "--image", "own", "--", "/bin/cat", "/etc/motd") == "my own\n"
    )
    alice.ok("image", "delete", "own")
    assert work(machine) == []


def test_what_is_no_image(alice: User, machine: Machine) -> None:
    before = images(alice)
    for arguments, stdin, status, says in (
        (
            ("bad", "-"),
            tar([member("../etc/passwd", b"x")]),
            1,
            "member '../etc/passwd' of the archive: its path leads",
        ),
        (("bad", "-"), b"", 1, "the archive is empty"),
        (("Bad", "-"), b"", 2, "'Bad' is no name for an image"),
        (("bad", "/nothing"), b"", 1, "cannot read '/nothing': No such file or directory"),
        (("bad", "/tmp"), b"", 1, "tar -C /tmp -c . | banger image import"),
        (("bad", "/etc/shadow"), b"", 1, "cannot read '/etc/shadow': Permission denied"),
    ):
        done = alice.banger("image", "import", *arguments, stdin=stdin)
        assert (done.status, says in done.err) == (status, True), done
    assert images(alice) == before
    assert work(machine) == []


def begun(alice: User, machine: Machine) -> "subprocess.Popen[bytes]":
    """An import whose pipe has not ended, being read by its worker."""
    process = alice.popen(
        "banger",
        "image",
        "import",
        "slow",
        "-",
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    process.stdin.write(bytes(1 << 20))
    process.stdin.flush()
    inputs = (machine.state / "work").glob
    until(lambda: any(path.stat().st_size for path in inputs("*/build/input")), machine.host.log_tail, 30)
    return process


def test_ctrl_c(alice: User, machine: Machine) -> None:
    with begun(alice, machine) as process:
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 128 + signal.SIGINT
        assert process.stderr is not None
        assert b"cannot import image 'slow': cancelled" in process.stderr.read()
    assert work(machine) == []
    assert "slow" not in images(alice)


def test_a_killed_service(alice: User, machine: Machine) -> None:
    with begun(alice, machine) as process:
        machine.kill_service()
        assert process.wait(30) == 1
    assert "slow" not in images(alice)  # starts it again
    assert work(machine) == []
