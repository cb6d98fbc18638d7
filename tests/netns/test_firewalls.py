"""Another program's firewall that drops guests' packets is named, with the command that lets them pass."""

from collections.abc import Awaitable, Callable

from tests.netns import lab
from tests.netns.lab import SERVER, Guest, make_vm
from tests.netns.test_respect import up

from bangerd.host.network import HostNetwork
from bangerd.model.vm import VM

Boot = Callable[[VM], Guest]


def remedy(problem: str) -> list[str]:
    return problem.partition("let it pass: ")[2].split(" && ")


async def test_another_firewalls_drop_is_told_with_its_remedy(network: HostNetwork, boot: Boot) -> None:
    vm = make_vm(1)
    await up(network, vm)
    guest = boot(vm)
    firewalls: dict[str, Callable[[], Awaitable[None] | None]] = {
        "ip filter FORWARD": lambda: iptables("-P", "FORWARD", "DROP"),
        "ip filter FORWARD (docker)": docker,
        "inet fw forward": lambda: nft_firewall("policy drop; ct state established accept"),
        "inet fw forward (reject)": lambda: nft_firewall(
            "policy accept; ct state established accept; reject with icmpx admin-prohibited"
        ),
    }
    for name, install in firewalls.items():
        assert guest.ns.ping(SERVER), name
        assert await blockers(network) == []
        install()
        assert not guest.ns.ping(SERVER, timeout=0.2), name
        (problem,) = await blockers(network)
        assert f"the firewall chain '{name.split(' (')[0]}' drops" in problem
        for command in remedy(problem):
            lab.run(*command.split())
        assert guest.ns.ping(SERVER), problem
        assert await blockers(network) == []
        lab.run("sh", "-c", "nft delete table inet fw 2>&-; nft delete table ip filter 2>&-; true")


async def blockers(network: HostNetwork) -> list[str]:
    return [problem for problem in await network.problems() if "firewall" in problem]


def iptables(*arguments: str) -> None:
    lab.run("iptables-nft", *arguments)


def docker() -> None:
    iptables("-N", "DOCKER-USER")
    iptables("-A", "FORWARD", "-j", "DOCKER-USER")
    iptables("-A", "FORWARD", "-o", "docker0", "-m", "conntrack", "--ctstate", "ESTABLISHED", "-j", "ACCEPT")
    iptables("-P", "FORWARD", "DROP")


def nft_firewall(body: str) -> None:
    text = f"type filter hook forward priority 10; {body}".replace("; ", "\n")
    lab.run(
        "nft",
        "-f",
        "-",
        given=f"table inet fw {{\nchain forward {{\n{text}\n}}\n}}\n".replace("0\npolicy", "0; policy"),
    )
