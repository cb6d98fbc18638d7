"""Images and kernels: immutable, named by digest, described by one manifest."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Package:
    """What an image has from elsewhere than the distribution's signed archive."""

    name: str
    version: str
    digest: str  # of the archive at `url`, "sha512:…": checked before anything was taken out of it
    url: str
    license: str
    project: str  # where its source is


@dataclass(frozen=True, slots=True)
class Image:
    """A root file system: `<state>/images/<id>/rootfs.squashfs` beside `manifest.json`."""

    id: str  # first 12 hex digits: of the squashfs's sha256, or of who owns what under which name
    name: str
    digest: str  # "sha256:…" of rootfs.squashfs
    size: int  # bytes on disk
    created_at: int
    owner_uid: int  # 0: shared, from the catalog
    source: str  # for people: "debian bookworm from http://…"
    init: str = "/sbin/init"  # path of the image's init, "" if it has none
    entrypoint: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    labels: dict[str, str] = field(default_factory=dict)
    packages: tuple[Package, ...] = ()
    owner_name: str = ""
    reference: str = ""  # in a registry, as it was asked for
    manifest: str = ""  # "sha256:…", what the reference led to then
    working_dir: str = ""  # of the entrypoint, "" for /
    user: str = ""  # of the entrypoint, "" for root


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel: `<state>/kernels/<id>/{vmlinuz,initrd,modules.squashfs,manifest.json}`."""

    id: str  # first 12 hex digits of vmlinuz's sha256
    name: str  # as users give it: "debian-bookworm"
    release: str  # uname -r
    digest: str  # "sha256:…" of vmlinuz
    size: int
    created_at: int
    source: str
