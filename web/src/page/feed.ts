/** Frames from the video to the encoder and on to the session: which ones, when, and how (edge_node/node.py). */
import { monotonic } from "../clock";
import type { Encoded, Encoder } from "../encoder/encoder";
import type { Picture } from "../encoder/protocol";
import type { EdgeTransport } from "../transport/edge";
import type { PayloadKind } from "../wire/frames";
import { RateControl, type RateChoice } from "../wire/rate_control";
import { rateLadder, type MeasuredPoint, type Rung } from "../wire/rungs";

/** Credit may bring the turn of the frame that waits forward. */
const TURN_S_MAX = 0.05;

/** How frames are to be encoded. */
export interface Quality {
  kind: PayloadKind;
  /** Index of the operating point that the user has chosen; null: rate control chooses. */
  pinned: number | null;
}

/** What a bundle offers. */
export interface Offer {
  points: readonly MeasuredPoint[];
  defaultPoint: number;
  /** The encoder is on its way: until it is here pictures go one by one, so that they do not fill the link. */
  coming?: boolean;
}

/** How many frames a second the source gives, of late. */
export class Pace {
  fps = 30;
  private times: number[] = [];

  seen(now: number): void {
    if (now - (this.times.at(-1) ?? now) > 1) this.times = []; // It stood still, or nobody was looking.
    this.times.push(now);
    if (this.times.length > 61) this.times.shift();
    if (this.times.length > 10) this.fps = Math.min(240, (this.times.length - 1) / (now - this.times[0]!));
  }
}

/** Of one session. */
export class Feed {
  private control: RateControl | null = null;
  private kind: PayloadKind = "bitstream";
  private frame = -1;
  private grabbing = false;
  private closed = false;
  /** The newest frame, until the link will take it: what waits here can still be superseded. */
  private waiting: { frame: number; capturedAt: number; picture: Picture } | null = null;
  private timer: ReturnType<typeof setTimeout> | undefined;
  /** Time from the picture to the bitstream, smoothed. */
  private encodeS = 0;
  private picturesUnderWay = new Set<number>();
  private encoding: { frame: number; since: number } | null = null;
  private readonly pace = new Pace();
  /** Of frames under way. */
  private readonly rungs = new Map<number, Rung>();

  constructor(
    private readonly transport: Pick<EdgeTransport, "session" | "call">,
    private readonly encoder: Pick<Encoder, "busy" | "encode">,
    private offer: Offer,
    private readonly grab: () => Promise<Picture>,
  ) {}

  /** The encoder is there now; `setQuality` says what of it is wanted. */
  setOffer(offer: Offer): void {
    this.offer = offer;
  }

  /** What the user has chosen now. Without an encoder there are only pictures. */
  setQuality({ kind, pinned }: Quality): void {
    const { points, defaultPoint } = this.offer;
    this.kind = points.length ? kind : "jpeg";
    if (this.kind === "jpeg") {
      this.steer(null); // Pictures have one quality.
      return;
    }
    const ladder = rateLadder(points, defaultPoint, pinned);
    if (this.control) this.control.climb(ladder);
    else this.steer(new RateControl(ladder, this.pace.fps));
  }

  private steer(control: RateControl | null): void {
    this.control = control;
    this.transport.call((session, now) => session.sending.steer(control, now));
  }

  /** What the next frame would be encoded as; null: nothing is chosen. */
  choice(now: number): RateChoice | null {
    return this.control?.choiceAt(now) ?? null;
  }

  /** The video shows another picture. */
  take(): void {
    const now = monotonic();
    const frame = ++this.frame;
    this.pace.seen(now);
    if (this.control) this.control.fpsMax = this.pace.fps;
    this.transport.call((session) => session.capture(frame, now));
    this.giveUp();
    // The encoder takes one picture at a time; and one that would wait for longer than a frame would be superseded.
    if (this.encoder.busy || this.grabbing || this.waitS(now) > 1 / this.pace.fps) this.supersede(frame);
    else void this.hold(frame, now);
  }

  /** The encoder is done with a frame. */
  encoded({ frame, payload, marks, kind }: Encoded): void {
    if (frame !== this.encoding?.frame) return; // Of an earlier session.
    this.encodeS += 0.2 * (monotonic() - this.encoding.since - this.encodeS);
    this.encoding = null;
    this.transport.call((session, now) => session.offer(frame, payload, marks, now, kind));
  }

  /** A frame has ended; returns what it was encoded as, if that was chosen. */
  ended(frame: number): Rung | null {
    const rung = this.rungs.get(frame) ?? null;
    this.rungs.delete(frame);
    this.picturesUnderWay.delete(frame);
    this.encodeInTurn(); // It may be the next one's turn now.
    return rung;
  }

  /** The session is over. */
  close(): void {
    this.closed = true;
    this.giveUp();
  }

  private async hold(frame: number, capturedAt: number): Promise<void> {
    this.grabbing = true;
    try {
      const picture = await this.grab();
      if (this.closed) picture.close();
      else this.waiting = { frame, capturedAt, picture };
    } catch (error) {
      const detail = error instanceof Error ? `${error.name}: ${error.message}` : String(error);
      this.transport.call((session) => session.fail(frame, "encode_failed", detail));
    }
    this.grabbing = false;
    this.encodeInTurn();
  }

  private encodeInTurn(): void {
    clearTimeout(this.timer);
    if (!this.waiting) return;
    const now = monotonic();
    const wait = this.waitS(now);
    if (wait > 0) {
      this.timer = setTimeout(() => this.encodeInTurn(), Math.max(1, 1000 * Math.min(wait, TURN_S_MAX)));
      return;
    }
    const { frame, capturedAt, picture } = this.waiting;
    this.waiting = null;
    const rung = this.choice(now)?.rung;
    if (rung) this.rungs.set(frame, rung);
    if (this.kind === "jpeg") this.picturesUnderWay.add(frame);
    this.encoding = { frame, since: now };
    this.encoder.encode(frame, capturedAt, picture, this.kind, rung?.point ?? this.offer.defaultPoint);
  }

  /** How long until a frame should be encoded: it is ready just when it may leave. */
  private waitS(now: number): number {
    if (this.control) return this.control.turnAt(now) - this.encodeS - now;
    if (this.offer.coming && this.picturesUnderWay.size) return Infinity;
    return this.transport.session.canSend(now) ? 0 : Infinity; // Without credit the encoder's work would be for nothing.
  }

  private giveUp(): void {
    clearTimeout(this.timer);
    if (!this.waiting) return;
    const { frame, picture } = this.waiting;
    this.waiting = null;
    picture.close();
    this.supersede(frame);
  }

  private supersede(frame: number): void {
    this.transport.call((session) => session.fail(frame, "superseded", "a newer frame will be encoded"));
  }
}
