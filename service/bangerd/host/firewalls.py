"""Finds other programs' firewalls that drop what guests forward. banger changes nothing in them: it tells."""

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from bangerd.host import nft, process
from bangerd.model.errors import StepFailed
from bangerd.model.network import BRIDGE

log = logging.getLogger(__name__)

_Object = dict[str, Any]
_OWN = "banger"


async def blockers() -> list[str]:
    """A sentence with the command to run for each chain that keeps guests from the internet. Raises StepFailed."""
    found = []
    for chain in _forward_chains(await nft.listing("chains")):
        objects = await nft.listing("table", chain["family"], chain["table"])
        rules = [thing["rule"] for thing in objects if "rule" in thing]
        names = {thing["chain"]["name"] for thing in objects if "chain" in thing}
        if _drops(chain, rules) and not _lets_pass(chain, names, rules):
            where = f"{chain['family']} {chain['table']} {chain['name']}"
            found.append(_sentence(where, _remedy(chain, names)))
    return found + await _legacy_blockers()


def _forward_chains(objects: Iterable[_Object]) -> Iterator[_Object]:
    for thing in objects:
        chain = thing.get("chain", {})
        if chain.get("hook") == "forward" and chain["family"] in {"ip", "inet"} and chain["table"] != _OWN:
            yield chain


def _drops(chain: _Object, rules: Iterable[_Object]) -> bool:
    """By its policy, or by a last rule without a condition, as firewalld's."""
    last: list[_Object] = []
    for rule in rules:
        if rule["chain"] == chain["name"]:
            last = rule["expr"]
    verdict = {key for part in last for key in part} - {"counter", "log"}
    return chain.get("policy") == "drop" or verdict in ({"drop"}, {"reject"})


def _lets_pass(chain: _Object, names: set[str], rules: Iterable[_Object]) -> bool:
    passed = {key for rule in rules for key in _passing(rule["expr"])}
    if _is_firewalld(chain) or _is_ufw(names):  # both let replies pass by themselves
        return "iifname" in passed
    return passed >= {"iifname", "oifname"}


def _passing(expressions: Iterable[_Object]) -> Iterator[str]:
    """ "iifname" or "oifname" if the rule accepts (or hands to a chain that may) what comes from or goes to us."""
    expressions = list(expressions)
    if not any(verdict in part for part in expressions for verdict in ("accept", "jump", "goto")):
        return
    for part in expressions:
        match part:
            case {"match": {"op": "==", "left": {"meta": {"key": str(key)}}, "right": right}} if _is_us(
                right
            ):
                yield key


def _is_us(right: object) -> bool:
    match right:
        case {"set": list(names)}:
            return BRIDGE in names
        case _:
            return right == BRIDGE


def _is_firewalld(chain: _Object) -> bool:
    return bool(chain["table"] == "firewalld")


def _is_ufw(names: set[str]) -> bool:
    return "ufw-user-forward" in names


def _remedy(chain: _Object, names: set[str]) -> str:
    if _is_firewalld(chain):
        return (
            f"firewall-cmd --permanent --zone=trusted --add-interface={BRIDGE}"
            f" && firewall-cmd --zone=trusted --add-interface={BRIDGE}"
        )
    if _is_ufw(names):
        return f"ufw route allow in on {BRIDGE}"
    if (chain["family"], chain["table"], chain["name"]) == ("ip", "filter", "FORWARD"):
        # Docker keeps this chain for the admin, and puts its own rules before others of FORWARD.
        return _iptables("iptables", "DOCKER-USER" if "DOCKER-USER" in names else "FORWARD")
    where = f"{chain['family']} {chain['table']} {chain['name']}"
    return (
        f"nft insert rule {where} iifname {BRIDGE} accept && nft insert rule {where} oifname {BRIDGE} accept"
    )


def _iptables(tool: str, chain: str) -> str:
    return f"{tool} -I {chain} -i {BRIDGE} -j ACCEPT && {tool} -I {chain} -o {BRIDGE} -j ACCEPT"


def _sentence(where: str, command: str) -> str:
    return f"the firewall chain '{where}' drops what guests send to the internet; let it pass: {command}"


async def _legacy_blockers() -> list[str]:
    """The kernel's older tables, which nft does not list. They are there only if something filled them."""
    try:
        tables = Path("/proc/thread-self/net/ip_tables_names").read_text(encoding="ascii").split()
    except OSError:
        return []
    if "filter" not in tables:
        return []
    try:
        done = await process.run(["iptables-legacy", "-S"], timeout_s=30.0)
    except StepFailed as exc:  # not installed, or the service lacks CAP_NET_RAW
        log.debug("cannot read the older tables: %s", exc)
        remedy = _iptables("iptables-legacy", "FORWARD")
        text = "rules of the older iptables are loaded, which banger cannot read; if guests reach nothing, look at"
        return [f"{text} `iptables-legacy -S FORWARD`, and let them pass: {remedy}"]
    lines = done.stdout.decode(errors="replace").splitlines()
    accepting = [line.split() for line in lines if line.endswith("-j ACCEPT")]
    passed = {words[i] for words in accepting for i in range(len(words) - 1) if words[i + 1] == BRIDGE}
    if "-P FORWARD DROP" not in lines or passed >= {"-i", "-o"}:
        return []
    chain = "DOCKER-USER" if "-N DOCKER-USER" in lines else "FORWARD"
    return [_sentence("iptables-legacy FORWARD", _iptables("iptables-legacy", chain))]
