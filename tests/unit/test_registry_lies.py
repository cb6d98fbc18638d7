"""Registries that ask for tokens, redirect, lie and hang."""

import argparse
import asyncio
import gzip
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.ocilayout import MANIFEST, Layout, digest_of
from tests.unit.flattening import Silent
from tests.unit.library_bench import Bench
from tests.unit.user_images import LAYERS, ORDER

from bangerd.core.ports import Progress
from bangerd.model.errors import DigestMismatch, PullFailed
from bangerd.model.image import Image
from bangerd.model.reference import parse
from bangerd.workers import pull_oci
from bangerd.workers.reports import WorkerError

pytestmark = [
    pytest.mark.root,
    pytest.mark.needs("mksquashfs", "sqfstar", "unsquashfs", "docker-registry", "skopeo", "zstd"),
]


class Liar(http.server.BaseHTTPRequestHandler):
    """A registry that says what each test wants: path's end -> status, headers, body."""

    protocol_version = "HTTP/1.1"
    answers: dict[str, tuple[int, dict[str, str], bytes]]
    asked: list[tuple[str, str]]

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.asked.append((self.path, self.headers.get("Authorization", "")))
        key = next((key for key in self.answers if path.endswith(key)), None)
        status, headers, body = self.answers[key] if key else (404, {}, b"{}")
        if "Need-Token" in headers and self.headers.get("Authorization") != "Bearer t0ken":
            status, headers, body = 401, {"Www-Authenticate": headers["Need-Token"]}, b"{}"
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True

    def log_message(self, *_args: object) -> None: ...


@pytest.fixture
def liar(bench: Bench) -> Iterator[tuple[type[Liar], str]]:
    kind = type("OneLiar", (Liar,), {"answers": {}, "asked": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    host = f"127.0.0.1:{server.server_port}"
    bench.plain = (host,)
    bench.library = bench.open()
    yield kind, host
    server.shutdown()
    thread.join()
    server.server_close()


def described(
    layout: Layout, tag: str, layers: list[bytes], **more: Any
) -> dict[str, tuple[int, dict[str, str], bytes]]:
    """The answers of a registry with one image, tag `latest`."""
    entry = layout.image(tag, layers, **more)
    blobs = {path.name: path.read_bytes() for path in (layout.path / "blobs/sha256").iterdir()}
    manifest = blobs[entry["digest"].partition(":")[2]]
    return {"/manifests/latest": (200, {"Content-Type": MANIFEST}, manifest)} | {
        f"sha256:{name}": (200, {}, raw) for name, raw in blobs.items()
    }


async def lied(bench: Bench, host: str) -> Image:
    return await bench.library.pull_reference(parse(f"{host}/a/b"), ORDER, lambda _p: None)


async def test_an_anonymous_token(liar: tuple[type[Liar], str], layout: Layout, bench: Bench) -> None:
    """As Docker Hub, ghcr.io and quay.io ask for it."""
    kind, host = liar
    challenge = f'Bearer realm="http://{host}/token",service="s",scope="repository:a/b:pull"'
    kind.answers = {
        key: (status, {**headers, "Need-Token": challenge}, body)
        for key, (status, headers, body) in described(layout, "x", LAYERS).items()
    }
    kind.answers["/token"] = (200, {}, b'{"token": "t0ken"}')
    assert (await lied(bench, host)).name == "mine"
    tokens = [path for path, _ in kind.asked if path.startswith("/token")]
    assert tokens == ["/token?service=s&scope=repository%3Aa%2Fb%3Apull"]
    kind.answers["/token"] = (403, {}, b"{}")
    with pytest.raises(PullFailed, match="the registry wants credentials for it, or it does not exist"):
        await lied(bench, host)
    kind.answers["/token"] = (200, {}, b"x" * (2 << 20))
    with pytest.raises((DigestMismatch, PullFailed), match="more than 1048576 bytes"):
        await lied(bench, host)


async def test_redirected_to_plain_http(liar: tuple[type[Liar], str], layout: Layout, bench: Bench) -> None:
    kind, host = liar
    kind.answers = described(layout, "x", LAYERS)
    layer = next(key for key, (_, _, body) in kind.answers.items() if body[:2] == b"\x1f\x8b")
    for target, says in (
        ("http://127.0.0.1:1/blob", "'127.0.0.1:1' would be spoken to without encryption"),
        (
            "http://169.254.169.254/latest/meta-data",
            "'169.254.169.254' would be spoken to without encryption",
        ),
        ("https://169.254.169.254/x", "has an address that images are never pulled from"),
        ("file:///etc/passwd", "without encryption|No connection adapters|cannot be reached"),
    ):
        kind.answers[layer] = (307, {"Location": target}, b"")
        with pytest.raises(PullFailed, match=says):
            await lied(bench, host)


DIGEST, OTHER = ("digest",), ("failed", "network")


def test_lies(liar: tuple[type[Liar], str], layout: Layout, tmp_path: Path) -> None:
    """What a worker says of them, without a sandbox around it."""
    liar_, host = liar
    honest = described(layout, "x", LAYERS)
    layer = next(key for key, (_, _, body) in honest.items() if body[:2] == b"\x1f\x8b")
    config = next(key for key, (_, _, body) in honest.items() if b'"diff_ids"' in body)
    raw = honest[layer][2]
    other = gzip.compress(b"other")

    def manifest(**change: Any) -> dict[str, Any]:
        document = json.loads(honest["/manifests/latest"][2])
        return {"/manifests/latest": (200, {}, json.dumps({**document, **change}).encode())}

    def config_with(**change: Any) -> dict[str, Any]:
        body = json.dumps({**json.loads(honest[config][2]), **change}).encode()
        about = {"digest": digest_of(body), "size": len(body)}
        return manifest(config=about) | {about["digest"]: (200, {}, body)}

    nested = b"[" * 100_000
    huge = {"digest": f"sha256:{1:064}", "size": 1 << 50}
    cases: list[tuple[dict[str, Any], tuple[str, ...], str]] = [
        ({layer: (200, {}, raw[:-1])}, DIGEST, r"layer \d .*: the registry sends \d+ bytes, not"),
        ({layer: (200, {}, raw + b"x")}, DIGEST, r"the registry sends \d+ bytes, not"),
        ({layer: (200, {}, raw[:-1] + b"\xff")}, DIGEST, "the registry's bytes have another digest"),
        ({layer: (200, {"Content-Length": str(len(raw) + 9)}, raw)}, OTHER, "cannot be reached|IncompleteRead"),
        ({layer: (500, {}, b"")}, OTHER, r"the registry does not give it \(status 500\)"),
        ({layer: (429, {}, b"")}, OTHER, "too many requests from here"),
        ({config: (200, {}, honest[config][2] + b" ")}, DIGEST, "more than|sends"),
        ({"/manifests/latest": (200, {"Docker-Content-Digest": "sha256:12"}, honest["/manifests/latest"][2])},
         DIGEST, "the registry's answer has the digest sha256:"),
        ({"/manifests/latest": (200, {}, b"x" * (5 << 20))}, DIGEST, "sends more than 4194304 bytes"),
        ({"/manifests/latest": (200, {}, nested)}, OTHER, "no JSON"),
        ({"/manifests/latest": (200, {}, b"<html>")}, OTHER, "no JSON"),
        ({"/manifests/latest": (200, {}, b"[]")}, OTHER, "no JSON object"),
        ({"/manifests/latest": (200, {}, b'{"schemaVersion": 1}')}, OTHER, "second version of the format"),
        ({"/manifests/latest": (200, {}, b'{"manifests": [1, {}, {"platform": 5}]}')}, OTHER, "no image for"),
        (manifest(layers=[huge]), OTHER, "a part of 1125899906842624 bytes"),
        (manifest(layers=[{"digest": f"sha256:{n:064}", "size": 6 << 30} for n in (1, 2)]), OTHER,
         "comes to 12288 MiB of layers; 8192 MiB are possible here"),
        (manifest(layers=[{"digest": f"sha256:{1:064}", "size": 1}] * 501), OTHER, "501 layers; 500 are"),
        (manifest(layers=[{"digest": "sha512:00", "size": 1}]), OTHER, "without digest"),
        (manifest(layers=[{"digest": f"sha256:../../{1:058}", "size": 1}]), OTHER, "without digest"),
        (manifest(layers=[{"digest": f"sha256:{1:064}", "size": "1"}]), OTHER, "without digest"),
        (manifest(layers=5), OTHER, "no list of layers"),
        (manifest(config=None), OTHER, "without digest"),
        (config_with(rootfs={"diff_ids": [f"sha256:{0:064}"] * 2}), DIGEST, "its content is not sha256:000"),
        (config_with(rootfs={"diff_ids": []}), OTHER, "does not name as many"),
        (config_with(rootfs={"diff_ids": ["x", "y"]}), OTHER, "a layer's digest that is none"),
        (config_with(config={"Env": ["NOVALUE"]}), OTHER, "a variable without '='"),
        (config_with(config={"Env": ["A=\0"]}), OTHER, "Env that is no list of texts"),
        (config_with(config={"Cmd": "sh"}), OTHER, "Cmd that is no list of texts"),
        (config_with(config={"Cmd": ["\ud800"]}), OTHER, "Cmd that is no list of texts"),
        (config_with(config={"Cmd": ["x" * 40_000]}), OTHER, "Cmd of more than"),
        (config_with(config=[1]), OTHER, "a configuration that is none"),
        (config_with(config={"User": 5}), OTHER, "User that is no text"),
        ({layer: (200, {}, other)} | manifest(layers=[{"digest": digest_of(other), "size": len(other)}])
         | {digest_of(other): (200, {}, other)}, OTHER, "does not name as many"),
    ]  # fmt: skip
    for number, (change, kind_, says) in enumerate(cases):
        liar_.answers = {**honest, **change}
        work = tmp_path / str(number)
        work.mkdir()
        options = argparse.Namespace(
            host=host, repository="a/b", wanted="latest", plain=True, have=[], dir=work,
            download=8 << 30, unpacked=1 << 30, members=1000,
        )  # fmt: skip
        with pytest.raises(WorkerError, match=says) as caught:
            pull_oci.pull(options, Silent())
        assert caught.value.kind in kind_, says
        assert not (work / "rootfs.squashfs").exists()


async def test_cancelled_in_the_midst(liar: tuple[type[Liar], str], layout: Layout, bench: Bench) -> None:
    """A registry that stops in the midst of a layer."""
    kind, host = liar
    kind.answers = described(layout, "x", LAYERS)
    layer = next(key for key, (_, _, body) in kind.answers.items() if len(body) > 100_000)
    stuck, go_on = asyncio.Event(), threading.Event()

    def slow(self: Liar) -> None:
        if self.path.endswith(layer):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(kind.answers[layer][2][:50_000])
            go_on.wait(30)
            self.close_connection = True
        else:
            Liar.do_GET(self)

    kind.do_GET = slow  # type: ignore[method-assign]

    def report(progress: Progress) -> None:
        if progress.stage == "download":
            stuck.set()

    pulled = asyncio.create_task(bench.library.pull_reference(parse(f"{host}/a/b"), ORDER, report))
    await asyncio.wait({asyncio.create_task(stuck.wait()), pulled}, return_when=asyncio.FIRST_COMPLETED)
    assert bench.leftovers()
    pulled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pulled
    go_on.set()
    assert bench.leftovers() == []
    assert bench.library.images() == ()
