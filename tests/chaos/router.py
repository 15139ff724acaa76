"""Hosts in network namespaces of their own, and between them a router that drops what it is told.

`hosts.Network` runs it within a user namespace, where it may do all this without being root:

    python -m tests.chaos.router LISTENING-SOCKET HOST:PORT HOST...

It says in one line of JSON where the hosts are, then obeys lines of `cut A B` and `heal A B`, each
answered with a line. What comes to the listening socket, which is of the world outside, it carries
to HOST:PORT. Nothing has a name outside of it: when its input ends, it ends, and the namespaces
end with the last process in them.
"""

import ctypes
import json
import os
import socket
import sys
import threading
from contextlib import suppress
from pathlib import Path

from pyroute2 import IPRoute

_NEW_NETWORK = 0x40000000  # CLONE_NEWNET of <sched.h>
_libc = ctypes.CDLL(None, use_errno=True)


def _checked(status: int) -> None:
    if status != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _enter(namespace: int) -> None:
    _checked(_libc.setns(namespace, _NEW_NETWORK))


def _own_namespace() -> int:
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY)


def _device_up(ip: IPRoute, name: str, address: str) -> None:
    [index] = ip.link_lookup(ifname=name)
    ip.addr("add", index=index, address=address, prefixlen=24)
    ip.link("set", index=index, state="up")


def _loopback_up(ip: IPRoute) -> None:
    [index] = ip.link_lookup(ifname="lo")
    ip.link("set", index=index, state="up")


def _make_host(router: int, number: int) -> tuple[int, str]:
    """Make a namespace that is joined to the router by a pair of devices; it, and its address."""
    _checked(_libc.unshare(_NEW_NETWORK))
    host = _own_namespace()
    _enter(router)
    near, far = f"10.77.{number}.1", f"10.77.{number}.2"
    with IPRoute() as ip:
        peer = {"ifname": "eth0", "net_ns_fd": host}
        ip.link("add", ifname=f"host{number}", kind="veth", peer=peer)
        _device_up(ip, f"host{number}", near)
    _enter(host)
    with IPRoute() as ip:
        _loopback_up(ip)
        _device_up(ip, "eth0", far)
        ip.route("add", dst="default", gateway=near)
    _enter(router)
    return host, far


def _relay(listening: socket.socket, target: tuple[str, int]) -> None:
    while True:
        client, _ = listening.accept()
        threading.Thread(target=_carry, args=(client, target), daemon=True).start()


def _carry(client: socket.socket, target: tuple[str, int]) -> None:
    """Both directions, until both have ended; a target that is away ends the connection."""
    with client, suppress(OSError), socket.create_connection(target) as server:
        back = threading.Thread(target=_pump, args=(server, client), daemon=True)
        back.start()
        _pump(client, server)
        back.join()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    """See the module's own words."""
    listening, target, *names = sys.argv[1:]
    router = _own_namespace()
    with IPRoute() as ip:
        _loopback_up(ip)
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1", encoding="ascii")
    hosts = {name: _make_host(router, number) for number, name in enumerate(names, 1)}
    _say(json.dumps(hosts))
    host, _, port = target.partition(":")
    threading.Thread(
        target=_relay,
        args=(socket.socket(fileno=int(listening)), (hosts[host][1], int(port))),
        daemon=True,
    ).start()
    with IPRoute() as ip:
        for line in sys.stdin:
            verb, source, destination = line.split()
            # A packet to which this rule applies is dropped, and nobody is told: as on a bad line.
            ip.rule(
                {"cut": "add", "heal": "del"}[verb],
                src=hosts[source][1],
                src_len=32,
                dst=hosts[destination][1],
                dst_len=32,
                action="FR_ACT_BLACKHOLE",
            )
            _say("done")


if __name__ == "__main__":
    main()
