"""Takes Debian's cloud kernel out of its signed package, in a sandbox; runs nothing of that package.

    python3 -m bangerd.workers.build_kernel --suite bookworm --mirror URI --security-mirror URI \
        --keyring FILE --dir DIR [--apt-options FILE]

Leaves in DIR: vmlinuz, vmlinux (the ELF file in it), modules.squashfs (the tree below /lib/modules/<release>, with
its indexes), and modules.cpio (the modules that the guest program loads, numbered in the order of loading). Its result
line says {"release": …, "package": …, "version": …}.
"""

import argparse
import lzma
import re
import shutil
import subprocess
import sys
from pathlib import Path

from bangerd.model import newc
from bangerd.workers import archive, reports, vmlinux
from bangerd.workers.reports import Reports, WorkerError

# What the guest program needs before it can reach a module on the modules disk, for both VMMs: disks, the
# guest channel, the overlay, the network. The buses come first: of the rest the guest program leaves out what it
# then finds no device for. What these depend on comes by itself, what is built in is left out.
WANTED = (
    "virtio_pci",
    "virtio_mmio",
    "virtio_console",
    "virtio_blk",
    "squashfs",
    "overlay",
    "ext4",
    "virtio_net",
    "vmw_vsock_virtio_transport",
)
# What a guest has use for once it is up: no boot waits for these, and images without udev would never load them.
LATER = ("virtio_balloon", "virtio_rng")
_SIGNATURE_END = b"~Module signature appended~\n"


def build(folder: Path, source: archive.Source, report: Reports) -> dict[str, object]:
    archive.needed("apt-get", "dpkg-deb", "depmod", "mksquashfs")
    apt = archive.Apt(folder / "apt", source)
    apt.update(report)
    package = _real_package(apt, source.architecture)
    deb = apt.download(package, report)
    report.progress("unpack")
    tree = folder / "tree"
    _tool(["dpkg-deb", "--extract", str(deb), str(tree)])
    modules_root = tree / "usr/lib/modules" if (tree / "usr/lib/modules").is_dir() else tree / "lib/modules"
    release = _only(modules_root)
    kernel = tree / f"boot/vmlinuz-{release.name}"
    # depmod -b wants lib/modules/<release> below its base.
    base = folder / "base"
    modules = base / "lib/modules" / release.name
    modules.parent.mkdir(parents=True)
    release.rename(modules)
    for link in ("build", "source"):
        (modules / link).unlink(missing_ok=True)
    _tool(["depmod", "--basedir", str(base), release.name])
    (folder / "modules.cpio").write_bytes(initrd_modules(modules))
    report.progress("compress")
    _tool(
        [
            "mksquashfs", str(modules), str(folder / "modules.squashfs"), "-comp", "lz4", "-all-root",
            "-no-xattrs", "-no-progress", "-quiet", "-processors", "2", "-mem", "64M",
        ]
    )  # fmt: skip
    shutil.copyfile(kernel, folder / "vmlinuz")
    (folder / "vmlinux").write_bytes(vmlinux.extract(kernel.read_bytes()))
    version = deb.name.split("_")[1].replace("%3a", ":")
    for leftover in (tree, base, folder / "apt"):
        shutil.rmtree(leftover)
    return {"release": release.name, "package": package, "version": version}


def _real_package(apt: archive.Apt, architecture: str) -> str:
    """The package behind the name that always means the newest kernel."""
    meta = f"linux-image-cloud-{architecture}"
    found = [name for name in apt.depends(meta) if name.startswith("linux-image-")]
    if len(found) != 1:
        raise WorkerError(
            "missing", f"{meta} depends on {found or 'nothing'}, where one kernel was expected"
        )
    return found[0]


def _only(folder: Path) -> Path:
    entries = sorted(folder.iterdir()) if folder.is_dir() else []
    if len(entries) != 1:
        raise WorkerError("failed", "the kernel package holds no modules, or those of more than one kernel")
    return entries[0]


def initrd_modules(modules: Path) -> bytes:
    """A cpio archive of /modules/<NN>-<name>.ko in an order in which each can be loaded; in /modules/later those that
    can wait until the guest is up."""
    depends = _read_depends(modules / "modules.dep")
    first = _order(depends, WANTED)
    later = [path for path in _order(depends, LATER) if path not in first]
    archive_bytes = newc.folder("modules") + newc.folder("modules/later")
    for folder, order in (("modules", first), ("modules/later", later)):
        for number, path in enumerate(order):
            content = _unsigned(_plain((modules / path).read_bytes()))
            archive_bytes += newc.file(f"{folder}/{number:02}-{_name(path)}.ko", content, mode=0o644)
    return archive_bytes + newc.trailer()


def _order(depends: dict[str, list[str]], wanted: tuple[str, ...]) -> list[str]:
    """The paths of the modules with these names, each after what it needs."""
    order: list[str] = []
    for name in wanted:
        path = next((path for path in depends if _name(path) == name), None)
        if path is None:
            continue  # built in, or unknown to this kernel
        # modules.dep lists what a module needs, nearest first.
        order += [step for step in (*reversed(depends[path]), path) if step not in order]
    return order


def _read_depends(index: Path) -> dict[str, list[str]]:
    lines = (line.partition(":") for line in index.read_text().splitlines())
    return {path: needs.split() for path, _, needs in lines}


def _name(path: str) -> str:
    return re.sub(r"\.ko(\.\w+)?$", "", path.rpartition("/")[2]).replace("-", "_")


def _plain(content: bytes) -> bytes:
    """Decompress what Debian may have compressed (xz since trixie); the guest program takes plain files."""
    if content.startswith(b"\xfd7zXZ\0"):
        return lzma.decompress(content)
    if content.startswith(b"\x28\xb5\x2f\xfd"):
        archive.needed("zstd")
        return subprocess.run(["zstd", "-dc"], input=content, capture_output=True, check=True).stdout
    return content


def _unsigned(module: bytes) -> bytes:
    """Without the signature: checking RSA-4096 costs 5 ms a module without hardware virtualization, and who
    could change the initrd could change the kernel. Layout: Linux, include/linux/module_signature.h."""
    signed = module.removesuffix(_SIGNATURE_END)
    size = 12 + int.from_bytes(signed[-4:], "big")
    return signed[:-size] if len(signed) < len(module) and size < len(signed) else module


def _tool(argv: list[str]) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()[-1:] or ["no reason given"]
        kind = "space" if "No space left" in done.stderr else "failed"
        raise WorkerError(kind, f"{argv[0]} failed with status {done.returncode}: {said[0]}")


def main() -> int:
    parser = argparse.ArgumentParser(description="make a kernel for VMs out of Debian's package")
    archive.add_arguments(parser)
    options = parser.parse_args()
    return reports.run(lambda report: build(options.dir, archive.source_of(options), report))


if __name__ == "__main__":
    sys.exit(main())
