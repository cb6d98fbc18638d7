"""Composition root: builds adapters, core and bus, and runs them. Knows everything, decides nothing."""

import argparse
import asyncio
import fcntl
import json
import logging
import os
import signal
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import sdnotify

from bangerd import config as configuration
from bangerd.bus.core import Core
from bangerd.bus.link import Link
from bangerd.bus.server import Server
from bangerd.core.doctor import Doctor
from bangerd.core.effects import Ports
from bangerd.core.hook import hook_from
from bangerd.core.images import Images
from bangerd.core.jobs import Jobs
from bangerd.core.ports import Supervisor
from bangerd.core.vms import VMs
from bangerd.host import drivers
from bangerd.host.caches import CacheFiles
from bangerd.host.disk import DiskFiles
from bangerd.host.facts import HostFacts
from bangerd.host.library import ImageLibrary
from bangerd.host.network import HostNetwork
from bangerd.host.shims import ShimClients
from bangerd.host.supervisor import ProcessSupervisor
from bangerd.host.systemd import SYSTEMD, SystemdSupervisor
from bangerd.model.errors import BangerError, HostNotReady
from bangerd.store.database import Database
from bangerd.store.vms import VMRows

log = logging.getLogger(__name__)

STATUS_S = 5.0


@dataclass(frozen=True, slots=True)
class Options:
    """The command line."""

    state_dir: Path
    runtime_dir: Path
    libexec_dir: Path
    config: Path
    config_required: bool
    bus_address: str
    supervisor: str
    verbose: bool


class _Schema(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        sys.stdout.write(json.dumps(configuration.json_schema(), indent=2) + "\n")
        parser.exit()


def command_line() -> argparse.ArgumentParser:
    """What bangerd(8) tells of, too."""
    parser = argparse.ArgumentParser(
        prog="bangerd", description="The root service behind banger; see bangerd(8)."
    )
    parser.add_argument(
        "--state-dir",
        type=Path,
        default=Path("/var/lib/banger"),
        help="images, kernels, disks and the database",
    )
    parser.add_argument(
        "--runtime-dir", type=Path, default=Path("/run/banger"), help="sockets of VMs; empty after a boot"
    )
    parser.add_argument(
        "--libexec-dir", type=Path, default=None, help="where banger-shim and banger-guest are"
    )
    parser.add_argument(
        "--config", type=Path, default=None, help="default: /etc/banger/banger.toml, if it exists"
    )
    parser.add_argument(
        "--bus-address",
        default="unix:path=/run/dbus/system_bus_socket",
        help="the system bus's address",
    )
    parser.add_argument(
        "--supervisor",
        choices=("auto", "systemd", "process"),
        default="auto",
        help="what VMs are processes of; auto is systemd where that is PID 1",
    )
    parser.add_argument("--verbose", action="store_true", help="log each step")
    parser.add_argument(
        "--config-schema", action=_Schema, nargs=0, help="write the JSON Schema of banger.toml, and end"
    )
    parser.add_argument(
        "--version", action="version", version=version("banger"), help="write the version, and end"
    )
    return parser


def parse_args(argv: list[str]) -> Options:
    args = command_line().parse_args(argv)
    return Options(
        state_dir=args.state_dir,
        runtime_dir=args.runtime_dir,
        libexec_dir=args.libexec_dir or _libexec(),
        config=args.config or Path("/etc/banger/banger.toml"),
        config_required=args.config is not None,
        bus_address=args.bus_address,
        supervisor=args.supervisor,
        verbose=args.verbose,
    )


def _libexec() -> Path:
    """Beside the venv that we were installed into, or the checkout's build folder."""
    installed = Path(sys.prefix).parent
    if (installed / "banger-shim").exists():
        return installed
    return Path(__file__).parents[1] / "native" / "build"


async def serve(options: Options) -> None:
    """Run until SIGTERM or SIGINT. Raises BangerError when the service cannot start."""
    config = configuration.load(options.config, required=options.config_required)
    options.state_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
    options.runtime_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
    lock = _lock(options.runtime_dir)
    notify = sdnotify.SystemdNotifier()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)

    database = Database(options.state_dir / "banger.db")
    await database.open()
    disks = DiskFiles(options.state_dir, options.runtime_dir)
    caches = CacheFiles(options.state_dir, disks)
    host = HostFacts(
        (options.state_dir / "vm", options.state_dir / "cache", options.runtime_dir / "vm"),
    )
    supervisor, systemd = await _supervisor(options)
    network = HostNetwork(config.subnet, options.runtime_dir)
    shims = ShimClients(disks)
    library = ImageLibrary(
        options.state_dir,
        libexec_dir=options.libexec_dir,
        mirror=config.mirror,
        npm_mirror=config.npm_mirror if config.mise else None,
        systemd=supervisor.isolates_owners,
        denied=(config.subnet,),
        insecure_registries=config.insecure_registries,
    )
    await library.collect()
    vmm = await _choose_vmm(config, disks, host)
    ports = Ports(
        config=config,
        host=host,
        store=VMRows(database),
        disks=disks,
        caches=caches,
        network=network,
        supervisor=supervisor,
        shims=shims,
        library=library,
        vmm=vmm,
        shim=options.libexec_dir / "banger-shim",
        hook=hook_from(os.environ),
    )
    jobs = Jobs()
    vms = VMs(ports, jobs)
    core = Core(
        vms=vms,
        images=Images(ports, jobs, vms),
        jobs=jobs,
        doctor=Doctor(ports),
        version=version("banger"),
        capabilities=(vmm.name, *filter(None, [vmm.accelerator]), *sorted(map(str, vmm.capabilities))),
        catalog=library.catalog,
        user_name=host.user_name,
    )
    server = Server(options.bus_address, core)
    try:
        await server.open()
        await vms.begin()
        await server.publish()
        notify.notify("READY=1")
        chosen = f"{vmm.name} with {vmm.accelerator}" if vmm.accelerator else "without a VMM"
        log.info("ready: %s, %d VMs", chosen, len(vms.all()))
        await _until(stop, server, systemd, vms, notify)
    finally:
        notify.notify("STOPPING=1")
        await server.close()
        await jobs.close()
        await vms.close()
        await shims.close()
        await supervisor.close()
        if systemd is not None:
            systemd.close()
        await database.close()
        os.close(lock)


async def _choose_vmm(config: configuration.Config, disks: DiskFiles, host: HostFacts) -> drivers.Drivers:
    """What about it will not be as the admin wants is in the log."""
    vmm = drivers.Drivers(config, disks, host.kvm)
    try:
        await vmm.check()
    except HostNotReady as exc:
        log.warning("no VM can be started: %s", exc)
    for text in vmm.missing:
        log.warning("%s", text)
    return vmm


async def _until(
    stop: asyncio.Event, server: Server, systemd: Link | None, vms: VMs, notify: sdnotify.SystemdNotifier
) -> None:
    """Keep the status line and the watchdog fed until told to stop. Raises BangerError when the bus is gone."""
    ended = {asyncio.create_task(stop.wait()), asyncio.create_task(server.lost())}
    if systemd is not None:
        ended.add(asyncio.create_task(systemd.lost()))
    try:
        while True:
            notify.notify(f"WATCHDOG=1\nSTATUS={vms.summary()}")
            done, _ = await asyncio.wait(ended, timeout=STATUS_S, return_when=asyncio.FIRST_COMPLETED)
            if stop.is_set():
                return
            if done:
                # Guests do not mind; to serve their owners again takes a new connection, and so a new start.
                raise BangerError(
                    "the connection to the bus has ended; systemd, or the bus, starts bangerd again"
                )
    finally:
        for task in ended:
            task.cancel()
        await asyncio.wait(ended)


async def _supervisor(options: Options) -> tuple[Supervisor, Link | None]:
    """With systemd's, the connection to it. Raises BangerError."""
    booted = Path("/run/systemd/system").is_dir()
    if options.supervisor != "systemd" and not (options.supervisor == "auto" and booted):
        return ProcessSupervisor(options.runtime_dir), None
    empty = options.runtime_dir / "empty"
    empty.mkdir(mode=0o755, exist_ok=True)
    supervisor = SystemdSupervisor(empty)
    try:
        link = await Link.open(options.bus_address, SYSTEMD, supervisor.on_signal)
    except (ConnectionError, ValueError) as exc:
        raise BangerError(f"systemd cannot be reached over {options.bus_address}: {exc}") from exc
    await supervisor.open(link)
    return supervisor, link


def _lock(runtime_dir: Path) -> int:
    """Only one bangerd may act on a runtime folder, whatever bus it is on."""
    lock = os.open(runtime_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BangerError(f"another bangerd runs with {runtime_dir}; stop that one first") from None
    return lock


def main(argv: list[str]) -> int:
    """The process: 0 after an orderly end, 1 with one line on stderr when it cannot run."""
    options = parse_args(argv)
    logging.basicConfig(
        level=logging.DEBUG if options.verbose else logging.INFO,
        format="%(name)s: %(message)s",
        stream=sys.stderr,
    )
    for noisy in ("asyncio", "pyroute2", "qemu", "peewee"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        asyncio.run(serve(options))
    except BangerError as exc:
        print(f"bangerd: {exc}", file=sys.stderr)  # noqa: T201 - before or without a journal
        return 1
    return 0
