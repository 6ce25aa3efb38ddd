import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { monotonic } from "../src/clock";
import type { Encoded } from "../src/encoder/encoder";
import type { Picture } from "../src/encoder/protocol";
import { Feed, Pace, type Quality } from "../src/page/feed";
import { rateText } from "../src/page/rate_words";
import { RateControl } from "../src/wire/rate_control";
import type { Message } from "../src/wire/messages";
import { rateLadder } from "../src/wire/rungs";
import { EdgeSession } from "../src/wire/session";
import { give, MARKS, welcome } from "./answers";

const POINTS = [
  { name: "low", bytesMean: 1000, lossPoints: 10.1, layerLossPoints: [] },
  { name: "high", bytesMean: 7000, lossPoints: 2.3, layerLossPoints: [60, 30.4] },
];
const ENCODE_MS = 10;
const AUTO: Quality = { kind: "bitstream", pinned: null };

/** A page whose link takes `bytesPerS`, and a server that answers soon. */
class Page {
  readonly session = new EdgeSession({ codecId: "c" });
  readonly points: number[] = [];
  open = 0;
  private freeAt = 0;
  private granted = 4;
  readonly encoder = {
    busy: false,
    encode: (frame: number, capturedAt: number, picture: Picture, kind: "bitstream" | "jpeg", point: number): void => {
      this.encoder.busy = true;
      this.points.push(kind === "jpeg" ? -1 : point);
      setTimeout(() => {
        picture.close();
        this.encoder.busy = false;
        const marks = { ...MARKS, capturedAt };
        this.feed.encoded({ type: "encoded", frame, payload: new Uint8Array(POINTS[point]!.bytesMean), kind, marks } as Encoded);
      }, ENCODE_MS);
    },
  };
  readonly transport = {
    session: this.session,
    call: (change: (session: EdgeSession, now: number) => void): void => {
      change(this.session, monotonic());
      this.pump();
    },
  };
  readonly feed = new Feed(this.transport, this.encoder, { points: POINTS, defaultPoint: 0 }, async () => {
    this.open++;
    return { close: () => void this.open-- } as unknown as Picture;
  });

  constructor(public bytesPerS: number) {
    this.session.connected(monotonic());
    this.session.pollSend(monotonic());
    give(this.session, welcome({ sent_frames_max: this.granted, credit_valid_ms: 1e6 }), monotonic());
    this.feed.setQuality(AUTO);
  }

  private pump(): void {
    const now = monotonic();
    for (let event = this.session.nextEvent(); event; event = this.session.nextEvent()) {
      if (event.type === "Answered") this.feed.ended(event.answer.frame);
      else if (event.type === "FrameDropped") this.feed.ended(event.frame);
    }
    for (let out = this.session.pollSend(now); out; out = this.session.pollSend(now)) {
      const { message } = out;
      const size = message.type === "Frame" ? message.bitstream.length : message.type === "JpegFrame" ? message.image.length : 20;
      const there = (this.freeAt = Math.max(this.freeAt, now) + size / this.bytesPerS);
      const after = (answer: () => Message, ms: number): void => {
        setTimeout(() => this.hear(answer()), (there - now) * 1000 + ms);
      };
      const thereUs = Math.round(there * 1e6);
      if (message.type === "Ping") {
        after(() => ({ type: "Pong", ping: message.ping, sent_at_us: message.sent_at_us, received_at_us: thereUs, replied_at_us: thereUs }), 0);
      } else if (message.type === "Frame" || message.type === "JpegFrame") {
        after(() => this.result(message.frame, thereUs), 8);
      }
    }
  }

  private hear(message: Message): void {
    give(this.session, message, monotonic());
    this.pump();
  }

  private result(frame: number, thereUs: number): Message {
    return {
      type: "Result", frame, tasks: [], received_at_us: thereUs, sent_at_us: thereUs, stages_us: [0, 0, 0, 0, 0],
      sent_frames_max: ++this.granted, credit_valid_ms: 1e6, decoded_layers: 8, layers: 8, batch: 1,
    };
  }

  /** Pictures 30 times a second; the session's timers as a transport would call them. */
  async show(seconds: number): Promise<void> {
    for (let frame = 0; frame < 30 * seconds; frame++) {
      this.feed.take();
      for (let step = 0; step < 8; step++) {
        await vi.advanceTimersByTimeAsync(1000 / 30 / 8);
        this.transport.call((session, now) => session.timer(now));
      }
    }
  }
}

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

test("quality is chosen by itself: low at first, high where the link takes it", async () => {
  const page = new Page(1e6);
  await page.show(3);
  expect([page.points[0], page.points.at(-1)]).toEqual([0, 1]);
  expect(page.session.account.answered).toBeGreaterThan(80);
  expect(page.feed.choice(monotonic())!.rung.name).toBe("high");
  page.bytesPerS = 40_000;
  await page.show(1.5);
  expect(page.points.at(-1)).toBe(0);
  page.bytesPerS = 1e6;
  await page.show(2);
  expect(page.points.at(-1)).toBe(1);
  expect(page.session.account.balanced).toBe(true);
});

test("a pinned quality is kept, and the frame rate gives way without a queue", async () => {
  const page = new Page(40_000);
  page.feed.setQuality({ kind: "bitstream", pinned: 1 });
  await page.show(5);
  expect(new Set(page.points)).toEqual(new Set([1]));
  const { account } = page.session;
  expect(account.answered).toBeGreaterThan(5 * 40_000 / 7000 - 6);
  expect(Object.keys(account.dropped)).toEqual(["superseded"]);
  expect(page.feed.choice(monotonic())!.fps).toBeLessThan(7);
  page.feed.setQuality(AUTO);
  await page.show(3);
  expect(page.points.at(-1)).toBe(0);
});

test("a frame that is superseded while it waits is let go, and so is the last one", async () => {
  const page = new Page(40_000);
  await page.show(2);
  page.feed.close();
  page.feed.take();
  await vi.advanceTimersByTimeAsync(2000);
  expect(page.open).toBe(0);
  expect(page.session.account.balanced).toBe(true);
});

test("pictures go until the encoder is there, then what was chosen", async () => {
  const page = new Page(1e6);
  page.feed.setOffer({ points: [], defaultPoint: 0, coming: true });
  page.feed.setQuality(AUTO);
  await page.show(0.5);
  expect(new Set(page.points)).toEqual(new Set([-1]));
  expect(page.feed.choice(monotonic())).toBeNull();
  page.points.length = 0;
  page.feed.setOffer({ points: POINTS, defaultPoint: 0 });
  page.feed.setQuality({ kind: "bitstream", pinned: 1 });
  await page.show(0.5);
  expect(new Set(page.points)).toEqual(new Set([1]));
  expect(page.session.account.balanced).toBe(true);
});

test("pictures until the encoder is there go one by one, so that a slow link does not fill up", async () => {
  const page = new Page(10_000);
  page.feed.setOffer({ points: [], defaultPoint: 0, coming: true });
  page.feed.setQuality(AUTO);
  let most = 0;
  for (let turn = 0; turn < 30; turn++) {
    await page.show(0.1);
    const { captured, answered, dropped } = page.session.account;
    most = Math.max(most, captured - answered - Object.values(dropped).reduce((sum, count) => sum + count, 0));
  }
  expect(most).toBeLessThanOrEqual(2); // One on the link, one that waits for its turn.
  expect(page.session.account.answered).toBeGreaterThan(20);
});

test("pictures have one quality: nothing is chosen", async () => {
  const page = new Page(1e6);
  page.feed.setQuality({ kind: "jpeg", pinned: null });
  await page.show(0.5);
  expect(new Set(page.points)).toEqual(new Set([-1]));
  expect(page.feed.choice(monotonic())).toBe(null);
});

test("what the encoder made for an earlier session is not offered", () => {
  const page = new Page(1e6);
  page.session.capture(0, 0);
  page.feed.encoded({ type: "encoded", frame: 0, payload: new Uint8Array(9), kind: "bitstream", marks: MARKS });
  expect([page.session.account.inFlight.size, page.session.canSend(0.1)]).toEqual([1, true]);
});

test("the pace of the source is measured, and a pause is none", () => {
  const pace = new Pace();
  expect(pace.fps).toBe(30);
  for (let frame = 0; frame < 50; frame++) pace.seen(frame / 12.5);
  expect(pace.fps).toBeCloseTo(12.5, 6);
  for (let frame = 0; frame < 50; frame++) pace.seen(100 + frame / 25);
  expect(pace.fps).toBeCloseTo(25, 6);
});

test("the choice and its expected loss are said in words", () => {
  const { choice } = new RateControl(rateLadder(POINTS, 0));
  expect(rateText(choice, false, null)).toBe(
    "Quality low until the link is measured. Expected loss 10.1 points against the unmodified backbone.",
  );
  const known = { ...choice, rung: rateLadder(POINTS, 0)[1]!, fps: 30, kbps: 2440 };
  expect(rateText(known, false, { rung: known.rung, decodedLayers: 8, layers: 8 })).toBe(
    "Quality high, chosen for a link of about 2.44 Mbit/s: 30.0 frames/s. Expected loss 2.3 points against the unmodified backbone.",
  );
  expect(rateText(known, true, { rung: known.rung, decodedLayers: 2, layers: 8 })).toMatch(
    /^Quality high, your choice; a link of about 2.44 Mbit\/s takes 30.0 frames\/s of it\. .*2 of 8 layers arrived: expected loss 30.4 points\.$/,
  );
  expect(rateText({ ...known, kbps: 450, rung: { ...known.rung, lossPoints: null } }, false, null)).toMatch(/450 kbit\/s.*Expected loss not measured/);
  expect(rateText({ ...known, rung: { ...known.rung, lossPoints: -0.3 } }, false, null)).toMatch(/No loss expected against/);
});
