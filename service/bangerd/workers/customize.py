"""What banger changes in a Debian root: hooks of mmdebstrap, run by the image worker in its sandbox.

python3 -m bangerd.workers.customize prepare ROOT LISTS ARCHIVES    before anything is unpacked
python3 -m bangerd.workers.customize finish ROOT [MISE]             after everything is configured
"""

import os
import re
import shutil
import sys
import tarfile
from pathlib import Path

from bangerd.model import mise

# As in Debian's own slim images: nobody reads manuals in a sandbox; copyright files stay.
EXCLUDED = (
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    "path-exclude=/usr/share/lintian/*",
    # Makes systemd start a service at each boot, so that Python's compiled files can be executed.
    "path-exclude=/usr/lib/binfmt.d/python*",
)
# The README promises these five lines, word for word.
_SSHD = """\
# Written by banger when it made this image.
PermitRootLogin prohibit-password
PubkeyAuthentication yes
PasswordAuthentication no
KbdInteractiveAuthentication no
AuthorizedKeysFile /root/.ssh/authorized_keys

HostKey /etc/ssh/ssh_host_ed25519_key
UseDNS no
"""
# Host keys are a VM's own: made at its first boot, unless its seed brought them. RSA takes seconds to make
# where the CPU is emulated; every client since 2014 takes ed25519.
_SSH_SERVICE = """\
[Service]
ExecStartPre=
ExecStartPre=/bin/sh -c 'test -s /etc/ssh/ssh_host_ed25519_key || { rm -f /etc/ssh/ssh_host_ed25519_key; \
exec ssh-keygen -q -t ed25519 -N "" -f /etc/ssh/ssh_host_ed25519_key; }'
"""
# A VM has few devices, and its disks, network and console are set up before udev starts. Asking the kernel to
# announce CPUs, memory and terminals too costs a fifth of the time to multi-user.target where the CPU is emulated.
_UDEV_TRIGGER = """\
[Service]
ExecStart=
ExecStart=-udevadm trigger --type=devices --action=add --subsystem-match=block --subsystem-match=net \
 --subsystem-match=virtio --subsystem-match=pci --subsystem-match=acpi --subsystem-match=input --subsystem-match=misc
"""
# A login shell's PATH is set anew by /etc/profile. Neither starts mise, which costs a second where the CPU is
# emulated; `eval "$(mise activate bash)"` does, for who wants its variables too.
_MISE_PROFILE = f"""\
case ":$PATH:" in
*:{mise.SHIMS}:*) ;;
*) [ "$(id -u)" != 0 ] || PATH="{mise.SHIMS}:$PATH" ;;
esac
"""
# What becomes of the files of mise's archive.
_MISE_FILES = {
    "package/bin/mise": "usr/local/bin/mise",
    "package/LICENSE": "usr/local/share/doc/mise/LICENSE",
}
_TMPFILES = """\
d /tmp 1777 root root 10d
d /var/tmp 1777 root root 30d
"""
# Units that find nothing to do in a VM whose disks, network and console are banger's, and cost boot time.
_MASKED = (
    "apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer",
    "e2scrub_reap.service", "fstrim.timer",
    "getty@.service", "autovt@.service", "serial-getty@.service", "console-getty.service",
    "systemd-networkd.service", "systemd-networkd.socket", "systemd-networkd-wait-online.service",
    "systemd-network-generator.service", "networking.service", "ifup@.service",
    "systemd-udev-settle.service", "systemd-hwdb-update.service", "systemd-pstore.service",
    "systemd-firstboot.service", "systemd-remount-fs.service", "systemd-fsck-root.service",
    "modprobe@configfs.service", "modprobe@drm.service", "modprobe@efi_pstore.service",
    "modprobe@dm_mod.service", "modprobe@loop.service", "modprobe@fuse.service",
    "dev-hugepages.mount", "sys-kernel-debug.mount", "sys-kernel-tracing.mount", "sys-fs-fuse-connections.mount",
    "systemd-update-utmp-runlevel.service",
)  # fmt: skip


def prepare(root: Path, lists: Path, archives: Path) -> None:
    """Give mmdebstrap the verified indexes and packages, so that it needs no network."""
    for source, target in ((lists, root / "var/lib/apt/lists"), (archives, root / "var/cache/apt/archives")):
        target.mkdir(parents=True, exist_ok=True)
        for path in source.iterdir():
            if path.is_file():
                path.rename(target / path.name)


def finish(root: Path) -> None:
    """Settings, and nothing that may differ from VM to VM or tell where the image was made."""
    _write(root / "etc/ssh/sshd_config.d/50-banger.conf", _SSHD)
    _write(root / "etc/systemd/system/ssh.service.d/50-banger.conf", _SSH_SERVICE)
    _write(root / "etc/systemd/system/systemd-udev-trigger.service.d/50-banger.conf", _UDEV_TRIGGER)
    for path in (root / "etc/ssh").glob("ssh_host_*"):
        path.unlink()
    for unit in _MASKED:
        _link(root / "etc/systemd/system" / unit, "/dev/null")
    _link(root / "etc/systemd/system/default.target", "/lib/systemd/system/multi-user.target")
    # A list of modules, empty as Debian ships it, for which systemd starts a service at each boot.
    (root / "etc/modules-load.d/modules.conf").unlink(missing_ok=True)
    _reachable_mirror(root / "etc/apt/sources.list")
    # Empty: systemd makes one at each VM's first boot, without the presets of an unconfigured machine.
    _write(root / "etc/machine-id", "", mode=0o444)
    (root / "var/lib/dbus/machine-id").unlink(missing_ok=True)
    (root / "var/lib/systemd/random-seed").unlink(missing_ok=True)
    # Says that /etc and /var fit what is in /usr; else systemd makes users and catalogs anew at the first boot.
    for name in ("etc/.updated", "var/.updated"):
        _write(root / name, "")
    # A command may run before systemd is up: what it puts into /tmp must not be emptied (`D`) or hidden by a tmpfs.
    _write(root / "etc/tmpfiles.d/tmp.conf", _TMPFILES)
    _link(root / "etc/systemd/system/tmp.mount", "/dev/null")
    _write(root / "etc/hostname", "localhost\n")
    # Filled by the guest program from the seed.
    for name in ("etc/resolv.conf", "etc/fstab"):
        (root / name).unlink(missing_ok=True)
        _write(root / name, "")
    _write(root / "etc/hosts", "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n")
    (root / "root/.ssh").mkdir(mode=0o700, exist_ok=True)
    # mmdebstrap removes the settings it wrote; upgrades in a VM shall not bring manuals either.
    _write(root / "etc/dpkg/dpkg.cfg.d/banger", "".join(f"{line}\n" for line in EXCLUDED))
    _write(
        root / "etc/apt/apt.conf.d/50banger",
        'APT::Install-Recommends "false";\nAcquire::Languages "none";\n',
    )
    for folder in ("var/lib/apt/lists", "var/cache/apt", "var/log", "tmp", "var/tmp"):
        _empty(root / folder)
    for folder in ("var/lib/apt/lists/partial", "var/cache/apt/archives/partial"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "var/log/journal").mkdir(exist_ok=True)


def install_mise(root: Path, archive: Path) -> None:
    """mise out of its archive, which was checked, and what puts its tools on every PATH. Raises KeyError."""
    with tarfile.open(archive) as content:
        for name, target in _MISE_FILES.items():
            source = content.extractfile(name)
            if source is None:
                raise KeyError(name)
            path = root / target
            path.parent.mkdir(parents=True, exist_ok=True)
            with source, path.open("wb") as file:
                shutil.copyfileobj(source, file)
            path.chmod(0o755 if name.startswith("package/bin") else 0o644)
    package = mise.package(mise.NPM)
    _write(
        root / "usr/local/share/doc/mise/README.banger",
        f"mise {package.version}, {package.license} license, source: {package.project}\n"
        f"from {package.url}\n{package.digest}\n",
    )
    _write(root / "etc/profile.d/mise.sh", _MISE_PROFILE)
    _write(root / "etc/environment", f"PATH={mise.PATH}\n")


def _reachable_mirror(sources: Path) -> None:
    """A mirror or a proxy of the host's loopback is none for a VM."""
    if sources.exists():
        _write(sources, re.sub(r"http\S*//(localhost|127\.|\[::1\])\S*", _public, sources.read_text()))


def _public(found: re.Match[str]) -> str:
    return "http://deb.debian.org/debian" + ("-security" if "security" in found[0] else "")


def _write(path: Path, text: str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_text(text)
    path.chmod(mode)


def _link(path: Path, target: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def _empty(folder: Path) -> None:
    """Remove files, keep folders: packages expect /var/log/<theirs>, with its owner, to exist."""
    for parent, _, names in os.walk(folder):
        for name in names:
            (Path(parent) / name).unlink()


def main() -> int:
    verb, *paths = sys.argv[1:]
    if verb == "prepare":
        prepare(*map(Path, paths))
    else:
        root, *archives = map(Path, paths)
        for archive in archives:
            install_mise(root, archive)
        finish(root)
    return 0


if __name__ == "__main__":
    sys.exit(main())
