"""A registry as a worker sees it: oras for the exchange of tokens, and limits around every answer.

Only `do_request` of oras is called, and without its retries, which sleep for minutes.
"""

import hashlib
import ipaddress
import re
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import oras.provider
import requests
from requests.adapters import HTTPAdapter
from urllib3.util.retry import Retry

from bangerd.workers.oci_image import INDEXES, MANIFEST_LIMIT, MANIFESTS, Descriptor
from bangerd.workers.reports import WorkerError

BLOCK = 128 * 1024
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
_TIMEOUT_S = (20, 60)  # to connect, and between two pieces of an answer
_ANSWER_LIMIT = 1 << 20  # of an answer that oras reads: a token
_HELP = {
    401: "the registry wants credentials for it, or it does not exist",
    403: "the registry wants credentials for it, or it does not exist",
    404: "the registry does not have it",
    429: "the registry has had too many requests from here; try again later",
}

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def keep_away(denied: Sequence[str]) -> None:
    """Have no name of this process lead to these networks, whoever resolves it and whatever it is asked for."""
    networks: list[Network] = [ipaddress.ip_network(one, strict=False) for one in denied]
    real = socket.getaddrinfo

    def getaddrinfo(*args: Any, **kwargs: Any) -> list[Any]:
        found = real(*args, **kwargs)
        kept = [one for one in found if not _denied(str(one[4][0]), networks)]
        if not kept:
            raise WorkerError("denied", f"{args[0]!a} has an address that images are never pulled from")
        return kept

    socket.getaddrinfo = getaddrinfo


def _denied(address: str, networks: Sequence[Network]) -> bool:
    found = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(found, "ipv4_mapped", None)
    return any(one in network for network in networks for one in (found, mapped) if one is not None)


class _Session(requests.Session):
    """Refuses plain http but to hosts that may have it; redirections come through here too."""

    def __init__(self, plain: Sequence[str]) -> None:
        super().__init__()
        self._plain = plain
        if CERTIFICATES.exists():
            self.verify = str(CERTIFICATES)
        self.max_redirects = 5
        # A connection that the other side closed while nobody spoke is no failure.
        again = Retry(connect=2, read=2, status=0, other=0, backoff_factor=0.2)
        self.mount("https://", HTTPAdapter(max_retries=again))
        self.mount("http://", HTTPAdapter(max_retries=again))

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        url = urlsplit(str(request.url))
        if url.scheme != "https" and url.netloc not in self._plain:
            raise WorkerError(
                "denied",
                f"{url.netloc!a} would be spoken to without encryption; the admin can allow it in insecure_registries",
            )
        whole = not kwargs.get("stream")
        kwargs.update(stream=True, timeout=_TIMEOUT_S)
        response = super().send(request, **kwargs)
        if whole:
            response._content = _capped(response, _ANSWER_LIMIT, "an answer")  # noqa: SLF001, as `content` does
        return response


class Registry:
    """One repository. `plain`: hosts (with port) for which plain http will do."""

    def __init__(self, host: str, repository: str, plain: Sequence[str]) -> None:
        self._client = oras.provider.Registry(hostname=host, insecure=host in plain, auth_backend="token")
        session = _Session(plain)
        self._client.session = self._client.auth.session = session
        self._client.auth._tls_verify = session.verify  # noqa: SLF001, it has no other way
        self._client._tls_verify = session.verify  # noqa: SLF001
        self._base = f"{'http' if host in plain else 'https'}://{host}/v2/{repository}"
        self._host = host

    def manifest(self, wanted: str, what: str) -> tuple[bytes, str]:
        """Manifest or index of a tag or digest, and its digest. Raises WorkerError."""
        accept = {"Accept": ", ".join((*MANIFESTS, *INDEXES))}
        with self._get(f"manifests/{wanted}", accept, what) as response:
            raw = _capped(response, MANIFEST_LIMIT, what)
        digest = f"sha256:{hashlib.sha256(raw).hexdigest()}"
        said = (
            wanted if wanted.startswith("sha256:") else response.headers.get("Docker-Content-Digest", digest)
        )
        if digest != said:
            raise WorkerError(
                "digest", f"{what}: the registry's answer has the digest {digest}, not {said[:80]}"
            )
        return raw, digest

    def document(self, wanted: Descriptor, what: str) -> bytes:
        """A small blob, whole. Raises WorkerError."""
        with self._get(f"blobs/{wanted.digest}", {}, what) as response:
            raw = _capped(response, wanted.size, what)
        _check(wanted, len(raw), hashlib.sha256(raw).hexdigest(), what)
        return raw

    def blob(self, wanted: Descriptor, target: Path, what: str, tell: Callable[[int], None]) -> None:
        """A blob into a file; `tell` gets the bytes of each piece. Raises WorkerError, and leaves what was written."""
        sha256, done = hashlib.sha256(), 0
        with self._get(f"blobs/{wanted.digest}", {}, what) as response, target.open("wb") as file:
            for block in _pieces(response):
                done += len(block)
                if done > wanted.size:
                    break
                sha256.update(block)
                file.write(block)
                tell(len(block))
        _check(wanted, done, sha256.hexdigest(), what)

    @contextmanager
    def _get(self, path: str, headers: dict[str, str], what: str) -> Iterator[requests.Response]:
        # Bytes as they are: of a compressed answer the digest would not be that of the blob.
        headers = {"Accept-Encoding": "identity", **headers}
        try:
            once = oras.provider.Registry.do_request.__wrapped__
            response = once(self._client, f"{self._base}/{path}", "GET", headers=headers, stream=True)
            with response:
                if response.status_code != 200:
                    known = _HELP.get(response.status_code, "the registry does not give it")
                    raise WorkerError(
                        "missing" if response.status_code == 404 else "network",
                        f"{what}: {known} (status {response.status_code})",
                    )
                yield response
        except ValueError as exc:  # of oras: no way to authenticate; of requests: a URL that is none
            raise WorkerError("network", f"{what}: {_HELP[401]} ({exc})") from None
        except requests.RequestException as exc:
            raise WorkerError("network", f"{what}: {self._host} cannot be reached: {_reason(exc)}") from None


def _reason(exc: BaseException) -> str:
    """The innermost reason: requests wraps urllib3's errors, which wrap the system's."""
    seen = exc
    while (inner := getattr(seen, "reason", None) or (seen.args[0] if seen.args else None)) is not None:
        if not isinstance(inner, BaseException):
            break
        seen = inner
    said = seen.strerror if isinstance(seen, OSError) and seen.strerror else str(seen)
    if "WRONG_VERSION_NUMBER" in said:
        return "it does not speak https; the admin can allow plain http in insecure_registries"
    return re.sub(r"^HTTPS?Connection(Pool)?\([^)]*\): ", "", said)[:300] or type(seen).__name__


def _pieces(response: requests.Response) -> Iterator[bytes]:
    yield from response.iter_content(BLOCK)


def _capped(response: requests.Response, limit: int, what: str) -> bytes:
    raw = b""
    for block in _pieces(response):
        raw += block
        if len(raw) > limit:
            raise WorkerError("digest", f"{what}: the registry sends more than {limit} bytes")
    return raw


def _check(wanted: Descriptor, size: int, sha256: str, what: str) -> None:
    if size != wanted.size:
        raise WorkerError("digest", f"{what}: the registry sends {size} bytes, not {wanted.size}")
    if f"sha256:{sha256}" != wanted.digest:
        raise WorkerError("digest", f"{what}: the registry's bytes have another digest than {wanted.digest}")
