/**
 * The pump between a session and its connections: reconnects with backoff, resumes, keeps the session's timers, and goes
 * over to the next route where one finds no way (pipeline/transports/asyncio_edge.py).
 */
import { monotonic } from "../clock";
import { RECONNECT_MS_MAX, RECONNECT_MS_MIN } from "../limits";
import type { EdgeEvent } from "../wire/events";
import type { EdgeSession } from "../wire/session";
import { NoWay, Turned, type Connection, type Hooks, type Route } from "./connection";

const BUFFER_POLL_MS = 10;
/** After this long on another route, the next reconnection tries the first one again. */
export const FALLBACK_S = 300;

/** A fallback that happened before this transport began. */
export interface EarlierFallback {
  why: string;
  agoS: number;
}

export class EdgeTransport {
  /** Why it is not the first route that is used; "" if it is. */
  why = "";
  onRoute: (route: Route["name"], why: string) => void = () => {};
  private at = 0;
  private fellBackAt = -Infinity;
  private connection: Connection | null = null;
  private opening: AbortController | null = null;
  private number = 0;
  private timer = 0;
  private retryMs = RECONNECT_MS_MIN;
  private retryAt = -Infinity;
  private closed = false;

  constructor(
    readonly session: EdgeSession,
    private readonly onEvent: (event: EdgeEvent) => void,
    private readonly routes: readonly Route[],
    earlier: EarlierFallback | null = null,
  ) {
    if (earlier && routes.length > 1) {
      this.at = 1;
      this.why = earlier.why;
      this.fellBackAt = monotonic() - earlier.agoS;
    }
    this.pump();
  }

  /** The kind of connection in use. */
  get route(): Route["name"] {
    return this.routes[this.at]!.name;
  }

  /** Run `change` on the session, then send what it caused. */
  call(change: (session: EdgeSession, now: number) => void): void {
    change(this.session, monotonic());
    this.pump();
  }

  /** End the session; nothing is heard of it any more. */
  close(): void {
    this.closed = true;
    this.call((session, now) => session.stop(now));
  }

  /** Try again at once, not at the end of the wait. `newNetwork`: what found no way before may find one now. */
  retryNow(newNetwork = false): void {
    if (newNetwork) this.fellBackAt = -Infinity;
    this.retryAt = -Infinity;
    this.pump();
  }

  private pump(): void {
    clearTimeout(this.timer);
    this.session.timer(monotonic());
    this.tellEvents();
    this.openOrHangUp();
    const waiting = !this.flush();
    this.tellEvents();
    if (this.connection && !this.session.usesConnection) this.hangUp();
    if (this.opening && this.session.state === "closed") this.opening.abort();
    const now = monotonic();
    let at = this.session.timerAt() ?? Infinity;
    if (!this.connection && !this.opening && this.session.wantsConnection) at = Math.min(at, this.openAt);
    if (waiting) at = Math.min(at, now + BUFFER_POLL_MS / 1000);
    if (at !== Infinity) this.timer = setTimeout(() => this.pump(), Math.max(1, (at - now) * 1000)) as unknown as number;
  }

  private get openAt(): number {
    return Math.max(this.retryAt, this.session.reconnectAt);
  }

  private openOrHangUp(): void {
    if (this.connection || this.opening || !this.session.wantsConnection || monotonic() < this.openAt) return;
    if (this.at && monotonic() - this.fellBackAt > FALLBACK_S) this.at = 0;
    if (!this.at) this.why = "";
    void this.open(this.routes[this.at]!);
  }

  private async open(route: Route): Promise<void> {
    const opening = (this.opening = new AbortController());
    const number = ++this.number;
    let connection: Connection | null = null;
    let trouble: unknown = null;
    try {
      connection = await route.open(this.hooks(number), opening.signal);
    } catch (error) {
      trouble = error;
    }
    this.opening = null;
    if (opening.signal.aborted || !this.session.wantsConnection) connection?.close();
    else if (connection) this.connected(connection, route);
    else this.failed(trouble);
    this.pump();
  }

  private connected(connection: Connection, route: Route): void {
    this.connection = connection;
    this.retryMs = RECONNECT_MS_MIN;
    this.session.partBytes = route.partBytes;
    this.session.connected(monotonic());
    this.onRoute(route.name, this.why);
  }

  private failed(trouble: unknown): void {
    const line = trouble instanceof Error ? trouble.message : String(trouble);
    if (trouble instanceof Turned) {
      this.session.refused("unauthorised", line);
    } else if (trouble instanceof NoWay && this.at + 1 < this.routes.length) {
      this.at++;
      this.why = line;
      this.fellBackAt = monotonic();
      this.retryAt = -Infinity;
    } else {
      this.lost(line);
    }
  }

  /** Of connection `number`: what an earlier one still says means nothing. */
  private hooks(number: number): Hooks {
    const current = (): boolean => number === this.number && this.connection !== null;
    return {
      received: (channel, message) => {
        if (current()) this.call((session, now) => session.receiveOn(channel, message, now));
      },
      lost: (reason) => {
        if (!current()) return;
        this.connection!.close();
        this.connection = null;
        this.lost(reason);
        this.pump();
      },
      writable: () => {
        if (current()) this.pump();
      },
      unsent: (frame, detail) => {
        if (number === this.number) this.session.unsent(frame, detail);
      },
    };
  }

  private lost(reason: string): void {
    this.backOff();
    this.session.disconnected(reason);
  }

  private hangUp(): void {
    this.connection?.close();
    this.connection = null;
    this.backOff();
  }

  /** Sends what there is. False: the connection takes nothing now. */
  private flush(): boolean {
    const connection = this.connection;
    while (connection && connection === this.connection) {
      if (!connection.ready) return false;
      const now = monotonic();
      const out = this.session.pollSend(now);
      if (!out) return true;
      connection.send(out, now);
    }
    return true;
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
