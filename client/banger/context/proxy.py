"""Proxy variables, in both spellings that programs look for."""

import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit

_NAMES = ("http_proxy", "https_proxy", "ftp_proxy", "all_proxy")


def variables(ours: Mapping[str, str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Variables for a guest, and a line about each proxy that no guest can reach."""
    found: dict[str, str] = {}
    remarks: list[str] = []
    for name in _NAMES:
        value = _value(ours, name)
        if not value:
            continue
        if _is_loopback(value):
            remarks.append(
                f"{name} is not passed on: {_host(value)} is this machine's loopback, which a VM cannot reach;"
                " let the proxy listen on another address and name that"
            )
            continue
        found[name] = found[name.upper()] = value
    if found and (excepted := _value(ours, "no_proxy")):
        found["no_proxy"] = found["NO_PROXY"] = excepted
    return found, tuple(remarks)


def _value(ours: Mapping[str, str], name: str) -> str:
    return ours.get(name) or ours.get(name.upper()) or ""


def _host(value: str) -> str:
    try:
        return urlsplit(value if "://" in value else f"http://{value}").hostname or ""
    except ValueError:
        return ""


def _is_loopback(value: str) -> bool:
    host = _host(value).rstrip(".")
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None) or address
    return mapped.is_loopback or mapped.is_unspecified
