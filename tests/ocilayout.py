"""Images made by plain Python, as OCI layouts: every layer exactly as a test wants it, wrong ones too."""

import gzip
import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"


def member(name: str, content: bytes | None = None, **what: Any) -> tuple[tarfile.TarInfo, bytes]:
    """One member: a file with content, or what the attributes of TarInfo say."""
    header = tarfile.TarInfo(name)
    header.size = len(content or b"")
    header.mtime = 1_700_000_000
    for key, value in what.items():
        setattr(header, key, value)
    return header, content or b""


def folder(name: str, **what: Any) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, type=tarfile.DIRTYPE, **{"mode": 0o755} | what)


def symlink(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, type=tarfile.SYMTYPE, linkname=target, mode=0o777)


def hardlink(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, type=tarfile.LNKTYPE, linkname=target)


def tar(members: Iterable[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    """A layer, plain."""
    raw = io.BytesIO()
    with tarfile.open(
        fileobj=raw, mode="w", format=tarfile.PAX_FORMAT, encoding="utf-8", errors="surrogateescape"
    ) as out:
        for header, content in members:
            out.addfile(header, io.BytesIO(content))
    return raw.getvalue()


def zstd(raw: bytes) -> bytes:
    return subprocess.run(["zstd", "-cq"], input=raw, stdout=subprocess.PIPE, check=True).stdout


def digest_of(raw: bytes) -> str:
    return f"sha256:{hashlib.sha256(raw).hexdigest()}"


class Layout:
    """A folder in the format of an OCI image layout."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "blobs/sha256").mkdir(parents=True)
        (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        (path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": []}))

    def blob(self, raw: bytes) -> dict[str, Any]:
        """Its descriptor, without a type."""
        digest = digest_of(raw)
        (self.path / "blobs/sha256" / digest.partition(":")[2]).write_bytes(raw)
        return {"digest": digest, "size": len(raw)}

    def image(
        self,
        tag: str,
        layers: Sequence[bytes],
        *,
        compress: str = "gzip",
        config: dict[str, Any] | None = None,
        **more: Any,
    ) -> dict[str, Any]:
        """Add an image of these plain layers; `config` is its "config", `more` further keys of the configuration."""
        described = []
        for layer in layers:
            packed = {
                "gzip": lambda raw: gzip.compress(raw, 1, mtime=0),
                "zstd": zstd,
                "": lambda raw: raw,
            }[compress](layer)
            suffix = f"+{compress}" if compress else ""
            described.append(
                {"mediaType": f"application/vnd.oci.image.layer.v1.tar{suffix}", **self.blob(packed)}
            )
        about = {
            "os": "linux",
            "architecture": "amd64",
            "created": "2024-05-06T07:08:09Z",
            "rootfs": {"type": "layers", "diff_ids": [digest_of(layer) for layer in layers]},
            "history": [{"created_by": "test"} for _ in layers],
            "config": config or {},
            **more,
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                **self.blob(json.dumps(about).encode()),
            },
            "layers": described,
        }
        entry = {"mediaType": MANIFEST, **self.blob(json.dumps(manifest).encode())}
        self.tag(tag, entry)
        return entry

    def tag(self, tag: str, entry: dict[str, Any]) -> None:
        path = self.path / "index.json"
        index = json.loads(path.read_text())
        index["manifests"].append({**entry, "annotations": {"org.opencontainers.image.ref.name": tag}})
        path.write_text(json.dumps(index))
