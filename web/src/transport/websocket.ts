/** WebSocket: one pipe for all channels, each message behind a channel byte (docs/protocol.md, "WebSocket"). */
import { CHANNELS, packed, type Outgoing } from "../wire/outgoing";
import { OpenFailed, SUBPROTOCOL, type Connection, type Hooks, type Route } from "./connection";

/** Bytes that may wait in the browser; beyond that frames wait in the session, where a newer one replaces them. */
const BUFFERED_BYTES_MAX = 65_536;
const NOTHING = new Uint8Array(0);

export class WebSocketRoute implements Route {
  readonly name = "websocket";
  readonly partBytes = 0;

  constructor(private readonly token = "") {}

  open(hooks: Hooks, signal: AbortSignal): Promise<Connection> {
    const protocols = this.token ? [SUBPROTOCOL, `frankenstream.token.${this.token}`] : [SUBPROTOCOL];
    return new Promise((resolve, reject) => {
      let socket: WebSocket;
      try {
        socket = new WebSocket(streamUrl(), protocols);
      } catch {
        // A token with characters that cannot be one.
        reject(new OpenFailed("the address or the token cannot be used"));
        return;
      }
      socket.binaryType = "arraybuffer";
      socket.onclose = ({ code }) => reject(new OpenFailed(`the connection ended (${code})`));
      socket.onopen = () => resolve(new SocketConnection(socket, hooks));
      signal.addEventListener("abort", () => socket.close(1000), { once: true });
    });
  }
}

class SocketConnection implements Connection {
  constructor(
    private readonly socket: WebSocket,
    hooks: Hooks,
  ) {
    socket.onopen = null;
    socket.onmessage = ({ data }: MessageEvent<ArrayBuffer | string>) => {
      const bytes = typeof data === "string" ? NOTHING : new Uint8Array(data);
      hooks.received(CHANNELS[bytes[0]!], bytes.subarray(1));
    };
    socket.onclose = ({ code }) => hooks.lost(`the connection ended (${code})`);
  }

  get ready(): boolean {
    return this.socket.readyState === WebSocket.OPEN && this.socket.bufferedAmount < BUFFERED_BYTES_MAX;
  }

  send(out: Outgoing): void {
    this.socket.send(packed(out) as Uint8Array<ArrayBuffer>);
  }

  close(): void {
    this.socket.onmessage = this.socket.onclose = null;
    this.socket.close(1000);
  }
}

/** The stream's address on the server that this page came from. */
function streamUrl(): string {
  const url = new URL("/api/v1/stream", document.baseURI);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  return url.href;
}
