"""The text of banger's whole nft ruleset: pure, and the same for the same VMs in whatever order."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address

from bangerd.model.network import BRIDGE, BRIDGE_MAC, TAP_PREFIX, Pool
from bangerd.model.vm import VM

TABLES = ("bridge banger", "inet banger")
# Flows that a guest may have at a time: the host's table of all flows has room for 65,536 and more.
MOST_FLOWS = 8192


@dataclass(frozen=True, slots=True)
class Uplink:
    """An interface through which guests may leave.

    `guard`: forwarding was off on it before banger set it, so nothing but guests' traffic may use that.
    `bridge`: it is a bridge itself; frames that only cross it may meet the forward hook (br_netfilter).
    """

    name: str
    guard: bool = False
    bridge: bool = False


def ruleset(
    vms: Iterable[VM], pool: Pool, uplinks: Sequence[Uplink] = (), link_local_resolvers: Sequence[str] = ()
) -> str:
    """Return what `nft -f -` shall load, in one transaction, in place of all that banger had loaded before.

    VMs without an address have no part in it: their taps pass nothing. `link_local_resolvers` are the host's
    resolvers in 169.254.0.0/16 (some clouds), the only addresses there, and only on port 53, for guests.
    """
    guests = sorted((vm for vm in vms if vm.address), key=lambda vm: (IPv4Address(vm.address), vm.sid))
    uplinks = sorted(uplinks, key=lambda uplink: uplink.name)
    # `table` before `delete table` makes deleting what is not there no error.
    fresh = "".join(f"table {name}\ndelete table {name}\n" for name in TABLES)
    return fresh + _bridge_table(guests) + _inet_table(guests, pool, uplinks, link_local_resolvers)


def takedown() -> str:
    """Return what removes all of banger's rules, whether they are there or not."""
    return "".join(f"table {name}\ndelete table {name}\n" for name in TABLES)


def _set(name: str, kind: str, elements: Iterable[str]) -> str:
    # nft refuses an empty `elements`.
    items = ",\n\t\t\t".join(dict.fromkeys(elements))
    body = f"\n\t\telements = {{ {items} }}" if items else ""
    return f"\tset {name} {{\n\t\ttype {kind}{body}\n\t}}\n"


def _bridge_table(guests: Sequence[VM]) -> str:
    """Anti-spoofing where frames enter the bridge, before anything else of the host looks into them.

    A tap that is not in the set passes nothing, so a tap may exist before its rules and after them. Nothing but
    the host's own MAC, or broadcast for ARP, can be addressed; IPv6, VLAN tags and all else end here.
    """
    bindings = (f'"{vm.tap}" . {vm.mac} . {vm.address}' for vm in guests)
    return (
        "table bridge banger {\n"
        + _set("guests", "ifname . ether_addr . ipv4_addr", bindings)
        + f"""\
	chain prerouting {{
		type filter hook prerouting priority -350; policy accept;
		iifname "{TAP_PREFIX}*" goto guest
	}}
	chain guest {{
		ether daddr {BRIDGE_MAC} ether type ip iifname . ether saddr . ip saddr @guests accept
		ether daddr {{ {BRIDGE_MAC}, ff:ff:ff:ff:ff:ff }} ether type arp iifname . ether saddr . arp saddr ip @guests iifname . arp saddr ether . arp saddr ip @guests accept
		drop
	}}
}}
"""  # noqa: E501, one rule
    )


def _inet_table(
    guests: Sequence[VM], pool: Pool, uplinks: Sequence[Uplink], resolvers: Sequence[str]
) -> str:
    nat = (vm.address for vm in guests if vm.spec.nat)
    owners = (f"{vm.owner_uid} . {vm.address}" for vm in guests)
    guarded = [uplink for uplink in uplinks if uplink.guard]
    return (
        "table inet banger {\n"
        + _set("nat", "ipv4_addr", nat)
        + _set("owners", "uid . ipv4_addr", owners)
        + _set("uplinks", "ifname", (f'"{uplink.name}"' for uplink in uplinks))
        + _set("guarded", "ifname", (f'"{uplink.name}"' for uplink in guarded))
        + _set("resolvers", "ipv4_addr", sorted(resolvers, key=IPv4Address))
        + "\tset flows {\n\t\ttype ipv4_addr\n\t\tsize 65536\n\t\tflags dynamic\n\t}\n"
        + _CHAINS.format(bridge=BRIDGE, tap=TAP_PREFIX, gateway=pool.gateway, most=MOST_FLOWS)
        + "\tchain guard {\n"
        # Frames that stay on one bridge are not ours to judge.
        + "".join(
            f'\t\tiifname "{uplink.name}" oifname "{uplink.name}" accept\n'
            for uplink in guarded
            if uplink.bridge
        )
        # What another program redirected here on purpose, and replies to what it let out, pass.
        + "\t\tct status dnat accept\n\t\tct state established,related accept\n\t\tdrop\n\t}\n}\n"
    )


# A frame to a group address of the bridge (01:80:c2:00:00:0x) is handed to the host as received on the tap
# itself, past the bridge's hooks: `raw` drops it. Accepting here ends only our own chains; other tables of the
# host may still drop.
_CHAINS = """\
	chain raw {{
		type filter hook prerouting priority -350; policy accept;
		iifname "{tap}*" drop
	}}
	chain input {{
		type filter hook input priority filter; policy accept;
		iifname "{bridge}" jump guest_to_host
	}}
	chain guest_to_host {{
		ct state established,related accept
		jump too_many
		ip daddr {gateway} icmp type echo-request accept
		reject with icmpx admin-prohibited
	}}
	chain output {{
		type filter hook output priority filter; policy accept;
		oifname "{bridge}" jump host_to_guest
	}}
	chain host_to_guest {{
		meta skuid 0 accept
		meta skuid . ip daddr @owners accept
		meta skuid >= 1 reject with icmpx admin-prohibited
		ct state established,related accept
		drop
	}}
	chain forward {{
		type filter hook forward priority filter; policy accept;
		oifname "{bridge}" goto to_guest
		iifname "{bridge}" goto from_guest
		meta nfproto ipv4 iifname @guarded jump guard
	}}
	chain to_guest {{
		iifname @uplinks ip daddr @nat ct state established,related accept
		drop
	}}
	chain from_guest {{
		meta nfproto != ipv4 drop
		ct state invalid drop
		ct state new jump too_many
		ip saddr != @nat reject with icmpx admin-prohibited
		oifname != @uplinks reject with icmpx admin-prohibited
		ip daddr @resolvers meta l4proto {{ tcp, udp }} th dport 53 accept
		ip daddr 169.254.0.0/16 reject with icmpx admin-prohibited
		tcp flags syn tcp option maxseg size set rt mtu
		accept
	}}
	chain too_many {{
		add @flows {{ ip saddr ct count over {most} }} drop
	}}
	chain postrouting {{
		type nat hook postrouting priority srcnat; policy accept;
		ip saddr @nat oifname @uplinks masquerade
	}}
"""
