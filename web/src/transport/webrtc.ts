/**
 * WebRTC: three data channels, signalling on the server's HTTP port (docs/protocol.md, "WebRTC"; the other edge is
 * pipeline/transports/webrtc_edge.py). A lost packet costs a part of one frame and holds up nothing.
 */
import { monotonic } from "../clock";
import { DATAGRAM_BYTES_MAX, FRAME_LIFETIME_MS } from "../limits";
import { pack, type Channel } from "../wire/messages";
import type { Outgoing } from "../wire/outgoing";
import { NoWay, OpenFailed, SUBPROTOCOL, Turned, type Connection, type Hooks, type Route } from "./connection";
import { ResultReader } from "./results";
import { SendBuffer } from "./send_buffer";

/** Of the bitstream in a FramePart; the rest is the message's other fields. */
export const PART_BYTES = DATAGRAM_BYTES_MAX - 32;
/** From the server's answer to open channels, where another route waits, and where none does. */
const CONNECT_MS = 3_000;
const CONNECT_PATIENT_MS = 8_000;
const SIGNAL_MS = 5_000;
/** Candidates that take longer (a STUN server that does not answer) are left out. */
const GATHER_MS = 1_000;
const LOOK_MS = 500;
/** Both sessions ping once a second: without any message for so long, the connection is dead. */
const SILENT_S = 6;
/** Bytes that wait and do not get fewer for so long: the association is wedged. */
const STUCK_S = 3;
/** What the frames channel gets ahead; the rest waits in our own buffer, by age. */
const CHANNEL_BYTES = 8_192;
const CONTROL_BYTES = 1_048_576;
const NOTHING = new Uint8Array(0);

export class WebRtcRoute implements Route {
  readonly name = "webrtc";
  readonly partBytes = PART_BYTES;

  /** `patient`: there is no other route. */
  constructor(
    private readonly token = "",
    private readonly patient = false,
  ) {}

  async open(hooks: Hooks, signal: AbortSignal): Promise<Connection> {
    if (typeof RTCPeerConnection === "undefined") throw new NoWay("this browser has no WebRTC");
    const iceServers = await this.iceServers(signal);
    let peer: RTCPeerConnection | null = null;
    const abort = (): void => peer?.close();
    signal.addEventListener("abort", abort, { once: true });
    try {
      peer = new RTCPeerConnection({ iceServers });
      const connection = new PeerConnection(peer, hooks);
      await peer.setLocalDescription();
      await gathered(peer);
      await peer.setRemoteDescription({ type: "answer", sdp: await this.answerTo(peer, signal) });
      await connection.opened(this.patient ? CONNECT_PATIENT_MS : CONNECT_MS);
      connection.begin();
      return connection;
    } catch (error) {
      peer?.close();
      if (error instanceof OpenFailed || error instanceof Turned) throw error;
      throw new NoWay(`WebRTC does not work here: ${error instanceof Error ? error.message : String(error)}`);
    } finally {
      signal.removeEventListener("abort", abort);
    }
  }

  /** What the server tells to use for finding a way; it also says whether it has WebRTC at all. */
  private async iceServers(signal: AbortSignal): Promise<RTCIceServer[]> {
    const told = await this.ask<{ ice_servers?: RTCIceServer[]; webrtc?: boolean }>("/api/v1/webrtc", { signal });
    if (told.webrtc === false) throw new NoWay("the server has no WebRTC");
    return told.ice_servers ?? [];
  }

  private async answerTo(peer: RTCPeerConnection, signal: AbortSignal): Promise<string> {
    const answer = await this.ask<{ sdp?: string }>("/api/v1/webrtc/offer", {
      method: "POST", signal, headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ type: "offer", sdp: peer.localDescription!.sdp }),
    });
    if (typeof answer.sdp !== "string") throw new OpenFailed("the server gave an answer that is no use");
    return answer.sdp;
  }

  private async ask<T>(path: string, wish: RequestInit & { signal: AbortSignal }): Promise<T> {
    const headers = { ...wish.headers, ...(this.token ? { Authorization: `Bearer ${this.token}` } : {}) };
    const patience = new AbortController();
    const timer = setTimeout(() => patience.abort(), SIGNAL_MS);
    wish.signal.addEventListener("abort", () => patience.abort(), { once: true });
    let response: Response;
    let answer: T & { error?: string; webrtc?: boolean };
    try {
      response = await fetch(new URL(path, document.baseURI), { ...wish, headers, signal: patience.signal, cache: "no-store" });
      answer = (await response.json().catch(() => ({}))) as typeof answer;
    } catch {
      throw new OpenFailed("the server does not answer");
    } finally {
      clearTimeout(timer);
    }
    const line = answer.error ?? `HTTP ${response.status}`;
    if (response.status === 401 || response.status === 403) throw new Turned(line);
    if (response.status === 404 || answer.webrtc === false) throw new NoWay("the server has no WebRTC");
    if (response.status === 400) throw new NoWay(line);
    if (!response.ok) throw new OpenFailed(line);
    return answer;
  }
}

/** Until all candidates are known: the offer carries them all, there is no trickle. */
function gathered(peer: RTCPeerConnection): Promise<void> {
  return new Promise((resolve) => {
    const look = (): void => {
      if (peer.iceGatheringState === "complete") resolve();
    };
    peer.addEventListener("icegatheringstatechange", look);
    setTimeout(resolve, GATHER_MS);
    look();
  });
}

/** Three channels of one peer connection. */
class PeerConnection implements Connection {
  private readonly channels: Record<Channel, RTCDataChannel>;
  private readonly buffer = new SendBuffer();
  private readonly reader = new ResultReader();
  private readonly stuck = new Map<Channel, { amount: number; since: number }>();
  private heardAt = monotonic();
  private watchdog = 0;
  private ended = false;
  private whenOpen: () => void = () => {};
  private whenFailed: (error: Error) => void = () => {};

  constructor(
    private readonly peer: RTCPeerConnection,
    private readonly hooks: Hooks,
  ) {
    const protocol = SUBPROTOCOL;
    this.channels = {
      control: peer.createDataChannel("control", { protocol }),
      frames: peer.createDataChannel("frames", { ordered: false, maxPacketLifeTime: FRAME_LIFETIME_MS, protocol }),
      results: peer.createDataChannel("results", { ordered: false, maxRetransmits: 0, protocol }),
    };
    for (const [label, channel] of Object.entries(this.channels) as [Channel, RTCDataChannel][]) {
      channel.binaryType = "arraybuffer";
      channel.onopen = () => {
        if (this.areOpen) this.whenOpen();
      };
      channel.onclose = () => this.down("the server closed the connection");
      channel.onmessage = ({ data }: MessageEvent<ArrayBuffer | string>) => this.received(label, data);
    }
    const { control, frames } = this.channels;
    frames.bufferedAmountLowThreshold = CHANNEL_BYTES / 2;
    frames.onbufferedamountlow = () => this.sendFrames();
    control.bufferedAmountLowThreshold = CONTROL_BYTES / 2;
    control.onbufferedamountlow = () => this.hooks.writable();
    peer.onconnectionstatechange = () => this.stateChanged();
  }

  /** Until all channels are open. Rejects with NoWay. */
  opened(patienceMs: number): Promise<void> {
    return new Promise((resolve, reject) => {
      this.whenOpen = resolve;
      this.whenFailed = reject;
      const tooLate = `no UDP path to the server within ${patienceMs / 1000} s`;
      setTimeout(() => reject(new NoWay(tooLate)), patienceMs);
      if (this.areOpen) resolve();
    });
  }

  /** The transport takes the connection. */
  begin(): void {
    this.heardAt = monotonic();
    this.watchdog = setInterval(() => this.look(), LOOK_MS) as unknown as number;
  }

  get ready(): boolean {
    return !this.ended && this.channels.control.bufferedAmount < CONTROL_BYTES;
  }

  send(out: Outgoing): void {
    if (out.channel === "frames") {
      this.buffer.add(out);
      this.sendFrames();
    } else {
      this.give(this.channels.control, pack(out.message));
    }
  }

  close(): void {
    this.ended = true;
    clearInterval(this.watchdog);
    // Closed at once, what was handed over last (Goodbye) would not leave.
    if (this.channels.control.bufferedAmount) setTimeout(() => this.peer.close(), 200);
    else setTimeout(() => this.peer.close(), 20);
  }

  private get areOpen(): boolean {
    return Object.values(this.channels).every((channel) => channel.readyState === "open");
  }

  private sendFrames(): void {
    const channel = this.channels.frames;
    while (this.buffer.length && channel.bufferedAmount < CHANNEL_BYTES) {
      const { next, ended } = this.buffer.take(monotonic());
      for (const frame of ended) this.hooks.unsent(frame, "the channel did not take it in time");
      if (!next) return;
      if (!this.give(channel, next.bytes)) this.hooks.unsent(next.frame, "the channel is closed");
    }
  }

  private give(channel: RTCDataChannel, bytes: Uint8Array): boolean {
    try {
      channel.send(bytes as Uint8Array<ArrayBuffer>);
    } catch {
      return false; // Closing, which is told by itself; or larger than the peer takes.
    }
    return true;
  }

  private received(label: Channel, data: ArrayBuffer | string): void {
    if (this.ended) return;
    this.heardAt = monotonic();
    if (typeof data === "string") return this.hooks.received(undefined, NOTHING);
    const bytes = new Uint8Array(data);
    for (const message of label === "results" ? this.reader.unpack(bytes) : [bytes]) this.hooks.received(label, message);
  }

  private stateChanged(): void {
    const state = this.peer.connectionState;
    if (state === "failed") this.whenFailed(new NoWay("no UDP path to the server: every way was tried"));
    if (state === "failed" || state === "closed") this.down("the server is gone");
  }

  /** An association can wedge without any end being told. */
  private look(): void {
    const now = monotonic();
    if (now - this.heardAt > SILENT_S) return this.down(`the server has been silent for ${SILENT_S} s`);
    for (const [label, { bufferedAmount: amount }] of Object.entries(this.channels) as [Channel, RTCDataChannel][]) {
      const before = this.stuck.get(label);
      const since = !before || !amount || amount < before.amount ? now : before.since;
      this.stuck.set(label, { amount, since });
      if (now - since > STUCK_S) return this.down(`${amount} bytes on channel ${label} are stuck`);
    }
    this.sendFrames();
  }

  private down(reason: string): void {
    if (this.ended) return;
    this.ended = true;
    clearInterval(this.watchdog);
    this.whenFailed(new OpenFailed(reason));
    this.hooks.lost(reason);
  }
}
