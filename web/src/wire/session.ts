/**
 * A live edge session: frames in, one terminal state for each out; messages and events in between. No socket, no clock,
 * no timer: a transport gives `now` (seconds) and moves what `pollSend` gives. The rules are those of docs/protocol.md
 * and pipeline/wire/edge_session.py; a page has no lossless mode, and awaits no answers when it stops.
 */
import * as limits from "../limits";
import { RemoteProtocolError } from "../errors";
import { COMMON_CAUSES, SERVER_CAUSES, type Cause, type FrameAccount } from "./account";
import { ClockOffset, PingSchedule } from "./clock";
import type { Disconnected, EdgeEvent } from "./events";
import { LiveFrames, type PayloadKind } from "./frames";
import { channelOf, PROTOCOL_VERSION, unpack, type Channel, type Message, type Welcome } from "./messages";
import type { Outgoing } from "./outgoing";
import { Sending } from "./sending";
import { micros, stagesMs, type StageMarks } from "./stages";

export type State = "idle" | "opening" | "open" | "detached" | "closing" | "closed";
export interface SessionOptions {
  codecId: string;
  client?: string;
  tasks?: string[];
  topK?: number;
}

const NOTHING = new Uint8Array(0);

export class EdgeSession {
  state: State = "idle";
  readonly clock = new ClockOffset();
  welcome: Welcome | null = null;
  /** The server asked not to come back before this. */
  reconnectAt = -Infinity;
  tasks: string[];
  topK: number;
  /** What leaves when: credit, rate control, what gets lost. */
  readonly sending: Sending;

  private readonly pings = new PingSchedule();
  private readonly messages: (() => Message)[] = [];
  private readonly events: EdgeEvent[] = [];
  private readonly frames: LiveFrames;
  private resumeToken = NOTHING;
  private now = -Infinity;
  private heardAt = -Infinity;
  private helloUntil = Infinity;
  private goodbyeUntil = Infinity;

  constructor(private readonly options: SessionOptions) {
    this.tasks = options.tasks ?? [];
    this.topK = options.topK ?? 1;
    this.frames = new LiveFrames(limits.BUDGET_MS_DEFAULT / 1000, (event) => this.events.push(event));
    this.sending = new Sending(this.frames, this.clock);
  }

  // --- The connection ---------------------------------------------------------------------------------------------

  get wantsConnection(): boolean {
    return this.state === "idle" || this.state === "detached";
  }

  get usesConnection(): boolean {
    return this.messages.length > 0 || ["opening", "open", "closing"].includes(this.state);
  }

  /** The transport is up: says Hello. */
  connected(now: number): void {
    this.state = "opening";
    this.now = this.heardAt = now;
    this.clock.reset();
    this.sending.connected();
    this.messages.length = 0;
    this.helloUntil = now + limits.HELLO_TIMEOUT_MS / 1000;
    const { codecId, client = "" } = this.options;
    this.queue({
      type: "Hello", protocol: PROTOCOL_VERSION, codec_id: codecId, client, tasks: this.tasks, backbone: "",
      top_k: this.topK, lossless: false, resume_token: this.resumeToken,
    });
  }

  /** The transport is down, or could not get up. */
  disconnected(reason: string): void {
    if (this.state === "closed") return;
    if (this.state === "closing") {
      this.close("done", "", true, "stopped");
      return;
    }
    const was = this.state;
    if (was === "opening" || was === "open") this.state = "detached";
    this.hangUp(reason);
  }

  /** Trying again is of no use (a wrong token): the session is over. */
  refused(reason: string, detail: string): void {
    if (this.state !== "closed") this.close(reason, detail, false, "disconnected");
  }

  /** Frames go in parts of at most so many bytes, 0: whole. The transport sets it before it says `connected`. */
  set partBytes(bytes: number) {
    this.frames.partBytes = bytes;
  }

  private hangUp(reason: string, goodbye: Disconnected["goodbye"] = null): void {
    this.pings.stop();
    this.messages.length = 0;
    this.helloUntil = this.sending.probeAt = Infinity;
    this.events.push({ type: "Disconnected", reason, goodbye });
  }

  // --- Frames -----------------------------------------------------------------------------------------------------

  /** The frame counts (docs/protocol.md, laws). */
  get account(): FrameAccount {
    return this.frames.account;
  }

  /** A frame was captured: it is counted, and ends in one Answered or FrameDropped. */
  capture(frame: number, capturedAt: number): void {
    this.frames.capture(frame, capturedAt);
    if (this.state === "closing" || this.state === "closed") this.frames.drop(frame, "stopped");
  }

  /** The page gives a frame up before it is sent. */
  fail(frame: number, cause: Cause, detail = ""): void {
    if (!this.frames.isSent(frame)) this.frames.drop(frame, cause, detail);
  }

  /** The transport could not hand over what `pollSend` gave it in time. */
  unsent(frame: number, detail: string): void {
    this.frames.drop(frame, "send_failed", detail);
  }

  /** The frame is encoded. It is sent when credit allows; until then a newer one supersedes it. */
  offer(frame: number, payload: Uint8Array, marks: StageMarks, now: number, kind: PayloadKind = "bitstream"): void {
    this.now = now;
    const most = kind === "jpeg" ? limits.JPEG_BYTES_MAX : (this.welcome?.payload_bytes_max ?? limits.PAYLOAD_BYTES_MAX);
    this.frames.offer(frame, payload, marks, kind, most);
  }

  /** Without rate control: whether a frame that is offered now would be sent at once. */
  canSend(now: number): boolean {
    return this.state === "open" && this.frames.pending === null && this.sending.credit.available(now) > 0;
  }

  setTasks(tasks: string[], topK: number): void {
    this.tasks = tasks;
    this.topK = topK;
    if (this.state === "open") this.queue({ type: "SetTasks", tasks, top_k: topK });
  }

  requestBundle(codecId: string, offset: number): void {
    if (this.state === "open") this.queue({ type: "BundleRequest", codec_id: codecId, offset });
  }

  /** End the session. */
  stop(now: number): void {
    if (this.state === "closed" || this.state === "closing") return;
    const connected = this.state === "open" || this.state === "opening";
    this.frames.dropAll("stopped");
    if (!connected) {
      this.close("done", "", true, "stopped");
      return;
    }
    this.state = "closing";
    this.goodbyeUntil = now + limits.GOODBYE_TIMEOUT_MS / 1000;
    this.queue(this.goodbye("done", ""));
  }

  // --- Out --------------------------------------------------------------------------------------------------------

  nextEvent(): EdgeEvent | undefined {
    return this.events.shift();
  }

  /** The next message for the network. */
  pollSend(now: number): Outgoing | null {
    this.now = now;
    const make = this.messages.shift();
    if (make) {
      const message = make();
      return { channel: channelOf(message), message };
    }
    return this.sending.next(now, this.state === "open");
  }

  // --- Timers -----------------------------------------------------------------------------------------------------

  /** When `timer` must be called, or null. */
  timerAt(): number | null {
    if (this.state === "closed") return null;
    let at = Math.min(this.pings.nextAt, this.helloUntil, this.goodbyeUntil, this.sending.probeAt);
    if (this.state === "open") at = Math.min(at, this.heardAt + limits.IDLE_TIMEOUT_MS / 1000);
    at = Math.min(at, this.frames.nextDueAt(), this.sending.turnAt);
    return at === Infinity ? null : at;
  }

  timer(now: number): void {
    this.now = now;
    this.frames.endOverdue(now, this.state === "open");
    if (this.state === "opening" && now >= this.helloUntil) {
      this.state = "detached";
      this.hangUp("the server did not answer");
    } else if (this.state === "open" && now >= this.heardAt + limits.IDLE_TIMEOUT_MS / 1000) {
      this.state = "detached";
      this.hangUp("nothing from the server for 15 s");
    } else if (this.state === "closing" && now >= this.goodbyeUntil) {
      this.close("done", "", true, "stopped");
    }
    if (this.state === "closed") return;
    if (now >= this.sending.turnAt) this.sending.turnAt = Infinity; // `pollSend` asks again.
    if (now >= this.sending.probeAt) {
      this.sending.probeAt = Infinity;
      this.queuePing();
    }
    if (this.pings.due(now)) this.queuePing();
  }

  // --- In ---------------------------------------------------------------------------------------------------------

  /** A message arrived on a channel. Never throws for what the server did. */
  receiveOn(channel: Channel | undefined, data: Uint8Array, now: number): void {
    if (this.state === "closed") return;
    try {
      const message = unpack(data);
      if (channel !== channelOf(message)) {
        throw new RemoteProtocolError(`${message.type} came on channel ${channel ?? "?"}, expected ${channelOf(message)}`);
      }
      this.receive(message, now);
    } catch (error) {
      if (!(error instanceof RemoteProtocolError)) throw error;
      this.broken(error.message);
    }
  }

  private receive(message: Message, now: number): void {
    this.now = this.heardAt = now;
    if (this.state === "idle" || this.state === "detached") return; // A remainder of a connection that has ended.
    switch (message.type) {
      case "Welcome": this.onWelcome(message, now); break;
      case "Result": this.onResult(message, now); break;
      case "Dropped": this.onDropped(message, now); break;
      case "Credit": this.sending.takeCredit(message.sent_frames_max, message.valid_for_ms, now); break;
      case "TasksChanged": this.events.push({ type: "TasksNow", tasks: message.tasks, error: message.error }); break;
      case "BundlePart": this.onBundlePart(message); break;
      case "Ping": this.onPing(message, now); break;
      case "Pong": this.onPong(message, now); break;
      case "Goodbye": this.onGoodbye(message, now); break;
      default: throw new RemoteProtocolError(`${message.type} came from the server`);
    }
  }

  private onWelcome(message: Welcome, now: number): void {
    if (this.state !== "opening") return; // Doubled, or crossed with our Goodbye.
    this.state = "open";
    if (!message.resumed) this.endSession("the server does not know the session any more");
    this.helloUntil = Infinity;
    this.welcome = message;
    this.sending.parityMax = message.parity_parts_max ?? 0;
    this.resumeToken = message.resume_token as Uint8Array<ArrayBuffer>;
    this.pings.start(now);
    this.events.push({ type: "Connected", welcome: message });
    this.sending.takeCredit(message.sent_frames_max, message.credit_valid_ms, now);
  }

  private onResult(message: Message & { type: "Result" }, now: number): void {
    if (message.stages_us.length !== 5) throw new RemoteProtocolError(`Result has ${message.stages_us.length} stages, expected 5`);
    const live = this.frames.spokenOf("Result", message.frame);
    this.sending.loss.told(message.settled ?? 0, message.parts_received ?? 0);
    this.sending.takeCredit(message.sent_frames_max, message.credit_valid_ms, now);
    this.sending.control?.acknowledged(message.frame, message.received_at_us / 1e6, now);
    if (!this.frames.answer(message.frame) || !live) return; // Counted as late or doubled.
    const stages = stagesMs(live.marks!, live.sentAt!, message, now, this.clock.offset);
    this.events.push({
      type: "Answered",
      answer: {
        frame: message.frame, tasks: message.tasks, capturedAt: live.capturedAt, receivedAt: now, stages,
        captureToResultMs: Object.values(stages).reduce((sum, ms) => sum + ms, 0),
        payloadBytes: live.payloadBytes, wireBytes: live.wireBytes,
        decodedLayers: message.decoded_layers, layers: message.layers,
      },
    });
  }

  private onDropped(message: Message & { type: "Dropped" }, now: number): void {
    const causes: readonly string[] = [...SERVER_CAUSES, ...COMMON_CAUSES];
    if (!causes.includes(message.cause)) throw new RemoteProtocolError(`Dropped has cause ${message.cause.slice(0, 40)}`);
    const live = this.frames.spokenOf("Dropped", message.frame);
    this.sending.loss.told(message.settled ?? 0, message.parts_received ?? 0);
    if (message.sent_frames_max) this.sending.takeCredit(message.sent_frames_max, message.credit_valid_ms, now);
    this.sending.control?.refused(message.frame, now, ["incomplete", "undecodable"].includes(message.cause));
    if (live) this.frames.drop(message.frame, message.cause as Cause, message.detail);
  }

  private onBundlePart(message: Message & { type: "BundlePart" }): void {
    if (message.total > limits.EDGE_BUNDLE_BYTES_MAX || message.offset + message.part.length > message.total) {
      throw new RemoteProtocolError(`BundlePart of ${message.total} bytes, limit ${limits.EDGE_BUNDLE_BYTES_MAX}`);
    }
    this.events.push({ type: "BundlePartReceived", part: message });
  }

  private onPing(message: Message & { type: "Ping" }, now: number): void {
    this.queueLate(() => ({
      type: "Pong", ping: message.ping, sent_at_us: message.sent_at_us, received_at_us: micros(now),
      replied_at_us: micros(this.now),
    }));
  }

  private onPong(message: Message & { type: "Pong" }, now: number): void {
    const sentAt = this.pings.answered(message.ping);
    if (sentAt === undefined) return;
    this.clock.add(sentAt, message.received_at_us / 1e6, message.replied_at_us / 1e6, now);
    this.sending.control?.pinged(sentAt, message.received_at_us / 1e6, now);
  }

  private onGoodbye(message: Message & { type: "Goodbye" }, now: number): void {
    const resumable = message.resume_token.length > 0;
    if (this.state === "closing" || !(resumable || message.retry_after_s > 0)) {
      const cause: Cause = this.state === "closing" ? "stopped" : "disconnected";
      this.close(message.reason, message.detail, message.reason === "done" || this.state === "closing", cause);
      return;
    }
    // A hostile server may ask for an endless wait; a page comes back within the resume window.
    this.reconnectAt = now + Math.min(Math.max(0, message.retry_after_s), limits.RESUME_WINDOW_MS / 1000);
    if (resumable) {
      this.state = "detached";
      this.resumeToken = message.resume_token as Uint8Array<ArrayBuffer>;
    } else {
      this.state = "idle";
      this.endSession(`the server ended the session: ${message.reason}`);
    }
    const { reason, detail } = message;
    this.hangUp(detail ? `${reason}: ${detail}` : reason, { reason, detail });
  }

  // --- Ends -------------------------------------------------------------------------------------------------------

  /** The server's side of the session is gone: what was sent will never be answered. */
  private endSession(detail: string): void {
    this.resumeToken = NOTHING;
    this.sending.begin();
    this.frames.dropSent("disconnected", detail);
  }

  private broken(detail: string): void {
    this.close("protocol", detail, false, "disconnected");
    this.messages.push(() => this.goodbye("protocol", detail));
  }

  private close(reason: string, detail: string, clean: boolean, cause: Cause): void {
    this.state = "closed";
    this.pings.stop();
    this.messages.length = 0;
    this.frames.dropAll(cause, detail);
    this.events.push({ type: "Closed", reason, detail, clean });
  }

  private goodbye(reason: string, detail: string): Message {
    return {
      type: "Goodbye", reason, detail: detail.slice(0, 500), resume_token: NOTHING, retry_after_s: 0, peer: "",
      sent_frames: this.sending.credit.sent,
    };
  }

  private queue(message: Message): void {
    this.queueLate(() => message);
  }

  /** Messages that carry the time at which they leave are made when they leave. */
  private queueLate(make: () => Message): void {
    if (this.messages.length >= limits.CONTROL_QUEUE_MAX) {
      this.broken(`${this.messages.length} control messages wait for a server that does not read`);
      return;
    }
    this.messages.push(make);
  }

  private queuePing(): void {
    this.queueLate(() => ({
      type: "Ping", ping: this.pings.sent(this.now), sent_at_us: micros(this.now),
      sent_frames: this.sending.settledFrames(this.now),
    }));
  }
}
