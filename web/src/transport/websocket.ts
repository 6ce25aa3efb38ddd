/** The pump between a session and a WebSocket: reconnects with backoff, resumes, keeps the session's timers. */
import { monotonic } from "../clock";
import { RECONNECT_MS_MAX, RECONNECT_MS_MIN } from "../limits";
import type { EdgeEvent } from "../wire/events";
import { EdgeSession, packed } from "../wire/session";

const SUBPROTOCOL = "frankenstream.v1";
/** Bytes that may wait in the browser; beyond that frames wait in the session, where a newer one replaces them. */
const BUFFERED_BYTES_MAX = 65_536;
const BUFFER_POLL_MS = 10;

export class WebSocketTransport {
  connections = 0;
  private socket: WebSocket | null = null;
  private timer = 0;
  private retryMs = RECONNECT_MS_MIN;
  private retryAt = -Infinity;
  private closed = false;

  constructor(
    readonly url: string,
    readonly session: EdgeSession,
    private readonly onEvent: (event: EdgeEvent) => void,
    private readonly token = "",
  ) {
    this.pump();
  }

  /** Run `change` on the session, then send what it caused. */
  call(change: (session: EdgeSession, now: number) => void): void {
    change(this.session, monotonic());
    this.pump();
  }

  /** End the session; nothing is heard of it any more. */
  close(): void {
    this.call((session, now) => session.stop(now));
    this.closed = true;
  }

  /** Try again at once, not at the end of the wait. */
  retryNow(): void {
    this.retryAt = -Infinity;
    this.pump();
  }

  private pump(): void {
    clearTimeout(this.timer);
    this.session.timer(monotonic());
    this.tellEvents();
    this.connectOrHangUp();
    const waiting = !this.flush();
    this.tellEvents();
    // While it connects, the session does not use it yet.
    const opening = this.socket?.readyState === WebSocket.CONNECTING && this.session.wantsConnection;
    if (this.socket && !opening && !this.session.usesConnection) {
      this.socket.close(1000);
      this.forget();
    }
    const now = monotonic();
    let at = this.session.timerAt() ?? Infinity;
    if (!this.socket && this.session.wantsConnection) at = Math.min(at, this.connectAt);
    if (waiting) at = Math.min(at, now + BUFFER_POLL_MS / 1000);
    if (at !== Infinity) this.timer = window.setTimeout(() => this.pump(), Math.max(1, (at - now) * 1000));
  }

  private get connectAt(): number {
    return Math.max(this.retryAt, this.session.reconnectAt);
  }

  private connectOrHangUp(): void {
    if (this.socket || !this.session.wantsConnection || monotonic() < this.connectAt) return;
    const protocols = this.token ? [SUBPROTOCOL, `frankenstream.token.${this.token}`] : [SUBPROTOCOL];
    let socket: WebSocket;
    try {
      socket = new WebSocket(this.url, protocols);
    } catch {
      // A token with characters that cannot be one.
      this.session.disconnected("the address or the token cannot be used");
      this.backOff();
      return;
    }
    this.socket = socket;
    socket.binaryType = "arraybuffer";
    socket.onopen = () => {
      this.connections++;
      this.retryMs = RECONNECT_MS_MIN;
      this.call((session, now) => session.connected(now));
    };
    socket.onmessage = ({ data }: MessageEvent<ArrayBuffer | string>) => {
      const bytes = typeof data === "string" ? new Uint8Array(0) : new Uint8Array(data);
      this.call((session, now) => session.receiveData(bytes, now));
    };
    socket.onclose = ({ code }) => {
      if (this.socket !== socket) return;
      this.forget();
      this.backOff();
      this.session.disconnected(`the connection ended (${code})`);
      this.pump();
    };
  }

  /** Sends what there is. False: the browser's buffer is full. */
  private flush(): boolean {
    const socket = this.socket;
    if (!socket || socket.readyState !== WebSocket.OPEN) return true;
    while (socket.bufferedAmount < BUFFERED_BYTES_MAX) {
      const out = this.session.pollSend(monotonic());
      if (!out) return true;
      socket.send(packed(out) as Uint8Array<ArrayBuffer>);
    }
    return false;
  }

  private forget(): void {
    if (!this.socket) return;
    this.socket.onopen = this.socket.onmessage = this.socket.onclose = null;
    this.socket = null;
  }

  private backOff(): void {
    this.retryAt = monotonic() + (this.retryMs * (0.8 + 0.4 * Math.random())) / 1000;
    this.retryMs = Math.min(2 * this.retryMs, RECONNECT_MS_MAX);
  }

  private tellEvents(): void {
    for (let event = this.session.nextEvent(); event; event = this.session.nextEvent()) {
      if (!this.closed) this.onEvent(event);
    }
  }
}

/** The stream's address on the server that this page came from. */
export function streamUrl(base: string = document.baseURI): string {
  const url = new URL("/api/v1/stream", base);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  return url.href;
}
