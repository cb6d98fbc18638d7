"""Image workers as transient units of a real systemd: what the unit adds to the sandbox, and how it ends.

The worker is one of the test's own; the service around it has no more capabilities than banger.service.
"""

import json

import pytest
from tests.system.machine import Machine

# A service with one build: argv is the state folder; prints stages and how it ended.
DRIVER = """
import asyncio, shutil, sys
from pathlib import Path
from bangerd.core.ports import Order
from bangerd.host import library, worker
from bangerd.host.mirror import Mirror
from bangerd.model.errors import BangerError

package = Path("/usr/src/fake/bangerd")
worker._PACKAGE = package
async def find_mirror(_configured):
    return Mirror("http://m", "http://s", Path("/keyring"), ())
library.find_mirror = find_mirror

async def main():
    made = library.ImageLibrary(
        Path("/var/lib/banger"), libexec_dir=Path("/usr/src/fake"), systemd=True, denied=("198.51.100.0/24",)
    )
    if "collect" in sys.argv:
        await made.collect()
    if "pull" in sys.argv:
        try:
            image = await made.pull_image("debian-bookworm", lambda p: print("stage", p.stage, flush=True))
            print("image", image.id)
        except BangerError as exc:
            print(type(exc).__name__, exc)

    if "import" in sys.argv:
        source = open("/usr/src/fake/user.tar", "rb")
        order = Order("mine", 1000, "alice", 1 << 30)
        image = await made.import_image(source.fileno(), order, lambda p: None)
        print("image", image.name, image.init)
    if "lend" in sys.argv:
        async with made._workers.job("lent") as job:
            facts = await made._workers.run(job, "build_image", [], lambda p: None, libraries=Path("/usr/src/lent"))
        print(facts["said"])

asyncio.run(main())
"""
PRELUDE = """
import json, os, socket, subprocess, sys, time
from pathlib import Path
def say(**message):
    print(json.dumps(message), flush=True)
"""
GOOD = """
os.makedirs("tree/sbin"); Path("tree/sbin/init").touch()
subprocess.run(["mksquashfs", "tree", "rootfs.squashfs", "-quiet", "-no-progress"], check=True, stdout=2)
say(result={"init": "/sbin/init"})
"""
PROBE = """
def reach(address, family=socket.AF_INET):
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        try:
            sock.sendto(b"x", (address, 53))
        except OSError as exc:
            return exc.errno
        return 0
def attempt(*argv):
    return subprocess.run(argv, capture_output=True).returncode
facts = {
    "uid": int(Path("/proc/self/uid_map").read_text().split()[1]) >= 0x70000000,
    "pid": os.getpid(),
    "loopback": reach("127.0.0.53"), "mirror": reach("192.0.2.7"),
    "metadata": reach("169.254.169.254"), "own": reach("198.51.100.7"),
    "run": os.listdir("/run"), "bus": Path("/run/dbus/system_bus_socket").exists(),
    "writes": attempt("touch", "/etc/x"), "job": attempt("touch", "x"),
    "chroot": attempt("chroot", "/", "true"), "mount": attempt("mount", "-t", "tmpfs", "none", "."),
    "no_network": attempt("unshare", "--net", "true"),
    "limit": "Max file size             8589934592" in Path("/proc/self/limits").read_text(),
}
say(error={"kind": "failed", "text": json.dumps(facts)}); sys.exit(1)
"""
STUBBORN = """
subprocess.Popen(["setsid", "sleep", "1000"])
say(progress={"stage": "stuck", "done": 0, "total": 0, "unit": "bytes"})
time.sleep(1000)
"""
# As banger.service will have it: chown of files, and nothing that opens others' files.
SERVICE = (
    "systemd-run", "--quiet", "--wait", "--pipe", "--collect", "--unit=banger-test-service",
    "-p", "CapabilityBoundingSet=CAP_CHOWN", "-p", "NoNewPrivileges=yes",
    "-p", "ProtectSystem=strict", "-p", "ReadWritePaths=/var/lib/banger", "-p", "PrivateTmp=yes",
    "-p", "RestrictAddressFamilies=AF_UNIX AF_NETLINK", "-p", "MemoryDenyWriteExecute=yes",
    "-p", "Environment=PYTHONPATH=/usr/src/banger/service",
)  # fmt: skip
UNITS = "systemctl list-units --all --plain --no-legend 'banger-build-*'"


@pytest.fixture
def builds(machine: Machine) -> Machine:
    machine.copy_repo()
    machine.sh(
        "rm -rf /usr/src/fake /var/lib/banger; mkdir -p -m 711 /var/lib/banger; mkdir -p /usr/src/fake;"
        "cp -r /usr/src/banger/service/bangerd /usr/src/fake/"
    )
    (machine.root / "usr/src/fake/driver.py").write_text(DRIVER)
    return machine


def worker_does(machine: Machine, body: str) -> None:
    (machine.root / "usr/src/fake/bangerd/workers/build_image.py").write_text(PRELUDE + body)


def pull(machine: Machine) -> str:
    return machine.run(*SERVICE, "python3", "/usr/src/fake/driver.py", "pull").stdout


def settled(machine: Machine) -> None:
    assert machine.sh(UNITS) == ""
    assert list((machine.root / "var/lib/banger/work").iterdir()) == []
    assert machine.sh("ps -eo args").count("sleep 1000") == 0


def test_an_image_enters(builds: Machine) -> None:
    worker_does(builds, GOOD)
    assert pull(builds).startswith("stage check\nimage ")
    (image,) = (builds.root / "var/lib/banger/images").iterdir()
    assert (image / "rootfs.squashfs").read_bytes()[:4] == b"hsqs"
    assert (image / "rootfs.squashfs").stat().st_uid == 0
    settled(builds)


def test_a_users_file_is_handed_over(builds: Machine) -> None:
    """By a service that has no right to write into the worker's folder; read by the real worker."""
    builds.sh(
        "cd /usr/src/fake; mkdir -p root/sbin; cp /bin/true root/sbin/init; chown 1000 root/sbin/init;"
        "tar -C root -c . | gzip >user.tar"
    )
    said = builds.run(*SERVICE, "python3", "/usr/src/fake/driver.py", "import").stdout
    assert said == "image mine /sbin/init\n"
    (image,) = (builds.root / "var/lib/banger/images").iterdir()
    assert json.loads((image / "manifest.json").read_text())["owner_uid"] == 1000
    settled(builds)


def test_libraries_are_lent(builds: Machine) -> None:
    """Python packages of the service's own, where the worker would not find them by itself."""
    builds.sh("mkdir -p /usr/src/lent; echo 'WORD = \"lent\"' >/usr/src/lent/lent_package.py")
    worker_does(
        builds,
        "import lent_package; place = Path(lent_package.__file__).parent\n"
        "try:\n    (place / 'x').touch()\nexcept OSError: say(result={'said': lent_package.WORD})",
    )
    said = builds.run(*SERVICE, "python3", "/usr/src/fake/driver.py", "lend").stdout
    assert said == "lent\n"
    settled(builds)


def test_what_the_worker_can_do(builds: Machine) -> None:
    worker_does(builds, PROBE)
    # A way to everywhere, which leads nowhere.
    builds.sh(
        "ip link add test-a type veth peer name test-b; ip link set test-b up; ip link set test-a up;"
        "ip address add 192.0.2.1/24 dev test-a; ip route add default dev test-a"
    )
    try:
        said = pull(builds)
    finally:
        builds.sh("ip link delete test-a")
    facts = json.loads(said.removeprefix("PullFailed "))
    # 1: Operation not permitted, by the unit's address policy.
    reached = {name: facts.pop(name) for name in ("loopback", "mirror", "metadata", "own")}
    assert reached == {"loopback": 0, "mirror": 0, "metadata": 1, "own": 1}
    assert set(facts.pop("run")) <= {"systemd"}  # what resolved needs
    assert facts == {
        "uid": True, "pid": 1, "bus": False, "writes": 1, "job": 0, "chroot": 0, "mount": 0, "no_network": 0,
        "limit": True,
    }  # fmt: skip
    settled(builds)


def test_the_hosts_mirror_is_found(builds: Machine) -> None:
    """By a service that may write nothing of apt's, on a machine that has never fetched an index."""
    code = "import asyncio; from bangerd.host.mirror import find_mirror; print(asyncio.run(find_mirror('')))"
    builds.sh(
        "cp -a /etc/apt /etc/apt.kept; rm -rf /etc/apt/sources.list* /var/lib/apt/lists /var/cache/apt;"
        "echo 'deb http://mirror.example.org/debian bookworm main' >/etc/apt/sources.list;"
        "echo 'deb http://sec.example.org/debian-security bookworm-security main' >>/etc/apt/sources.list;"
        """echo 'Acquire::http::Proxy "http://proxy:3128";' >/etc/apt/apt.conf.d/proxy"""
    )
    try:
        said = builds.run(*SERVICE, "python3", "-c", code).stdout
    finally:
        builds.sh("rm -rf /etc/apt; mv /etc/apt.kept /etc/apt")
    assert (
        "main='http://mirror.example.org/debian', security='http://sec.example.org/debian-security'" in said
    )
    assert """'Acquire::http::Proxy "http://proxy:3128";'""" in said


def test_limits_of_the_unit(builds: Machine) -> None:
    """As systemd holds them; that they have an effect is the kernel's business."""
    worker_does(builds, STUBBORN)
    with builds.spawn(*SERVICE, "python3", "/usr/src/fake/driver.py", "pull") as service:
        assert service.stdout is not None
        assert service.stdout.readline() == b"stage stuck\n"
        unit = builds.sh(UNITS).split()[0]
        wanted = ("MemoryMax", "MemorySwapMax", "TasksMax", "RuntimeMaxUSec", "Slice", "KillMode")
        said = builds.sh(f"systemctl show {unit} {' '.join(f'-p {name}' for name in wanted)}")
        assert dict(line.split("=", 1) for line in said.splitlines()) == {
            "MemoryMax": "2147483648", "MemorySwapMax": "0", "TasksMax": "512", "RuntimeMaxUSec": "1h",
            "Slice": "banger.slice", "KillMode": "control-group",
        }  # fmt: skip
        builds.sh("systemctl stop banger-test-service")


@pytest.mark.parametrize("sign", ["KILL", "TERM"])
def test_a_service_that_ends_takes_its_builds_along(builds: Machine, sign: str) -> None:
    worker_does(builds, STUBBORN)
    with builds.spawn(*SERVICE, "python3", "/usr/src/fake/driver.py", "pull") as service:
        assert service.stdout is not None
        assert service.stdout.readline() == b"stage stuck\n"
        assert builds.sh("ps -eo args").count("sleep 1000") == 1
        builds.sh(f"systemctl kill --kill-whom=all --signal={sign} banger-test-service")
        service.wait(20)
    builds.run(*SERVICE, "python3", "/usr/src/fake/driver.py", "collect")
    settled(builds)


def test_exposure(builds: Machine) -> None:
    """systemd's own opinion of the unit: 10 is no protection at all."""
    worker_does(builds, STUBBORN)
    with builds.spawn(*SERVICE, "python3", "/usr/src/fake/driver.py", "pull") as service:
        assert service.stdout is not None
        service.stdout.readline()
        unit = builds.sh(UNITS).split()[0]
        said = builds.sh(f"systemd-analyze security --no-pager {unit} | tail -1")
        builds.sh("systemctl stop banger-test-service")
    assert float(said.split(":")[1].split()[0]) < 5, said
