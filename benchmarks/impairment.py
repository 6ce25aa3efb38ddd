"""An impairment relay on loopback: TCP, WebSocket and WebRTC through a modelled link, without root or `tc netem`.

    with Relay(server_url, LinkModel(rate_kbps=5_000, delay_ms=50, loss=0.03)) as url: ...

Everything that passes is carried by one Link each way (pipeline/transports/link_model.py), seeded, shared by all
connections. UDP datagrams are lost, delayed and doubled one by one. TCP is relayed in pieces of a segment: a
lost segment comes about one round trip later and holds up what is behind it, as the kernel's fast retransmission would
have it (kinder than a real timeout); a full queue stops reading, so that the sender's own buffers fill. For WebRTC the
relay answers the signalling itself and puts a pair of UDP sockets in place of both ends' candidates.

A relay is a process of its own, so that it takes no time from either end.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import aiohttp
from aiohttp import web

from benchmarks.peer_process import PeerProcess
from pipeline.transports.http_address import OFFER_PATH, HttpAddress
from pipeline.transports.link_model import Link, LinkModel

SEGMENT_BYTES = 1_448
TCP_HEADER_BYTES = 40
UDP_HEADER_BYTES = 28

_CANDIDATE = re.compile(r"(a=candidate:\S+ \d+ udp \d+ )(\S+) (\d+)( typ host)")


class Relay(PeerProcess):
    """`with Relay(url, model) as relayed_url`."""

    def __init__(self, url: str, model: LinkModel) -> None:
        super().__init__(relay_process, url, model)


def relay_process(ready: Connection, url: str, model: LinkModel) -> None:
    """Relays until it is killed; sends its own URL."""
    asyncio.run(_serve(ready, url, model))


async def _serve(ready: Connection, url: str, model: LinkModel) -> None:
    up, down = model.up(), model.down()
    if url.startswith("webrtc"):
        port = await _serve_webrtc(HttpAddress.parse(url), up, down)
    else:
        port = await _serve_tcp(int(url.rpartition(":")[2]), up, down, model.queue_ms / 1e3)
    ready.send(f"{url.rpartition(':')[0]}:{port}")
    await asyncio.Event().wait()


# --- TCP -----------------------------------------------------------------------------------------------------


async def _serve_tcp(server_port: int, up: Link, down: Link, queue_s: float) -> int:
    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", server_port)
        await asyncio.gather(
            _stream(reader, server_writer, up, queue_s), _stream(server_reader, writer, down, queue_s),
            return_exceptions=True,
        )  # fmt: skip

    server = await asyncio.start_server(relay, "127.0.0.1", 0, limit=SEGMENT_BYTES)
    return int(server.sockets[0].getsockname()[1])


async def _stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, link: Link, queue_s: float) -> None:
    loop = asyncio.get_running_loop()
    under_way: deque[tuple[float, bytes]] = deque()
    arrived = asyncio.Event()

    async def deliver() -> None:
        while True:
            await arrived.wait()
            while under_way:
                at, data = under_way.popleft()
                await asyncio.sleep(max(0.0, at - loop.time()))
                writer.write(data)
                if not data:
                    writer.close()
                    return
                await writer.drain()
            arrived.clear()

    delivering = asyncio.ensure_future(deliver())
    at = 0.0
    while True:
        data = await reader.read(SEGMENT_BYTES)
        now = loop.time()
        if data:
            at = link.carry(len(data) + TCP_HEADER_BYTES, now, reliable=True)[0]
        under_way.append((max(at, now), data))
        arrived.set()
        if not data:
            break
        if link.waiting_s(now) > queue_s:
            await asyncio.sleep(link.waiting_s(now) - queue_s)
    await delivering


# --- WebRTC --------------------------------------------------------------------------------------------------


class _Datagrams(asyncio.DatagramProtocol):
    """One side of a pair: what comes in leaves at the other side, to `target`."""

    def __init__(self, link: Link, target: tuple[str, int], queue_s: float) -> None:
        self._link = link
        self._target = target
        self._queue_s = queue_s
        self.out: Callable[[], asyncio.DatagramTransport]
        self.transport: asyncio.DatagramTransport

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, address: Any) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        if self._link.waiting_s(now) > self._queue_s:
            self._link.lost += 1
            return  # The queue is full: its tail drops.
        for at in self._link.carry(len(data) + UDP_HEADER_BYTES, now, reliable=False):
            loop.call_at(at, self._deliver, data)

    def _deliver(self, data: bytes) -> None:
        self.out().sendto(data, self._target)


async def _serve_webrtc(server: HttpAddress, up: Link, down: Link) -> int:
    """Signalling passes as it is; the candidates in it become the relay's."""
    queue_s = up._model.queue_ms / 1e3
    loop = asyncio.get_running_loop()

    async def offer(request: web.Request) -> web.Response:
        wish = await request.json()
        edge = _candidate(wish["sdp"])
        _, to_edge = await loop.create_datagram_endpoint(
            lambda: _Datagrams(down, edge, queue_s), local_addr=("127.0.0.1", 0)
        )
        wish["sdp"] = _replaced(wish["sdp"], to_edge.transport.get_extra_info("sockname")[1])
        async with (
            aiohttp.ClientSession() as client,
            client.post(f"http://{server.authority}{OFFER_PATH}", json=wish) as response,
        ):
            answer = await response.json()
            if response.status != 200:
                return web.json_response(answer, status=response.status)
        _, to_server = await loop.create_datagram_endpoint(
            lambda: _Datagrams(up, _candidate(answer["sdp"]), queue_s), local_addr=("127.0.0.1", 0)
        )
        to_edge.out, to_server.out = lambda: to_server.transport, lambda: to_edge.transport
        answer["sdp"] = _replaced(answer["sdp"], to_server.transport.get_extra_info("sockname")[1])
        return web.json_response(answer)

    app = web.Application()
    app.add_routes([web.post(OFFER_PATH, offer)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return int(runner.addresses[0][1])


def _candidate(sdp: str) -> tuple[str, int]:
    found = _CANDIDATE.search(sdp)
    assert found is not None, "the description has no host candidate"
    return found.group(2), int(found.group(3))


def _replaced(sdp: str, port: int) -> str:
    return _CANDIDATE.sub(lambda found: f"{found.group(1)}127.0.0.1 {port}{found.group(4)}", sdp)
