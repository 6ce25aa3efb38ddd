import { expect, test } from "vitest";
import { pack, type Message } from "../src/wire/messages";
import { RateControl } from "../src/wire/rate_control";
import { EdgeSession } from "../src/wire/session";
import type { EdgeEvent } from "../src/wire/events";
import { STAGES } from "../src/wire/stages";
import { give, MARKS, welcome } from "./answers";

function result(frame: number, sentMax: number): Message {
  return {
    type: "Result", frame, tasks: [{ task: "food101", labels: [{ index: 1, name: "pizza", score: 0.9 }], error: "" }],
    received_at_us: 20_000, sent_at_us: 30_000, stages_us: [1000, 2000, 3000, 3000, 1000], sent_frames_max: sentMax,
    credit_valid_ms: 2000, decoded_layers: 8, layers: 8, batch: 1,
  };
}

function opened(): EdgeSession {
  const session = new EdgeSession({ codecId: "c" });
  session.connected(0);
  expect(sent(session, 0)).toEqual(["Hello"]);
  give(session, welcome(), 0.001);
  return session;
}

function sent(session: EdgeSession, now: number): string[] {
  const types = [];
  for (let out = session.pollSend(now); out; out = session.pollSend(now)) types.push(out.message.type);
  return types;
}

function events(session: EdgeSession): EdgeEvent[] {
  const all = [];
  for (let event = session.nextEvent(); event; event = session.nextEvent()) all.push(event);
  return all;
}

function frame(session: EdgeSession, number: number, now: number): void {
  session.capture(number, now);
  session.offer(number, new Uint8Array(10), MARKS, now);
}

test("a frame is captured, sent and answered, and its stages sum to capture-to-result", () => {
  const session = opened();
  frame(session, 0, 0.012);
  expect(sent(session, 0.013)).toEqual(["Frame"]);
  give(session, result(0, 3), 0.04);
  const answered = events(session).find((event) => event.type === "Answered");
  expect(answered?.type === "Answered" && answered.answer.captureToResultMs).toBeCloseTo(40, 6);
  expect(answered?.type === "Answered" && Object.keys(answered.answer.stages)).toEqual([...STAGES]);
  expect(session.account.balanced && session.account.answered).toBe(1);
});

test("without credit the newest frame supersedes the one that waits", () => {
  const session = opened();
  for (const number of [0, 1, 2, 3]) {
    frame(session, number, 0.01);
    sent(session, 0.01);
  }
  expect(session.account.dropped).toEqual({ superseded: 1 });
  give(session, result(0, 3), 0.05);
  expect(sent(session, 0.05)).toEqual(["Frame"]);
});

test("credit runs out with its time", () => {
  const session = opened();
  expect(session.canSend(1)).toBe(true);
  expect(session.canSend(2.01)).toBe(false);
});

test("a frame without an answer is lost, a later result is late", () => {
  const session = opened();
  frame(session, 0, 0.01);
  sent(session, 0.01);
  session.timer(1.02);
  expect(session.account.dropped).toEqual({ lost: 1 });
  give(session, result(0, 3), 1.03);
  expect([session.account.lateResults, session.account.balanced]).toEqual([1, true]);
});

test("a cut connection is resumed with the token; a server that forgot ends what was sent as disconnected", () => {
  const session = opened();
  frame(session, 0, 0.01);
  sent(session, 0.01);
  session.disconnected("cut");
  expect(session.wantsConnection).toBe(true);
  session.connected(0.1);
  const hello = session.pollSend(0.1)!.message;
  expect(hello.type === "Hello" && hello.resume_token.length).toBe(16);
  give(session, welcome({ resumed: false, session: "s2" }), 0.11);
  expect(session.account.dropped).toEqual({ disconnected: 1 });
  expect(session.canSend(0.12)).toBe(true);
});

test.each([[5, 0], [1, 16]])("a Goodbye that leaves something possible (after %d s, token of %d bytes) says why; a lost connection does not", (retry, token) => {
  const session = opened();
  events(session);
  const resume_token = new Uint8Array(token).fill(1);
  give(session, { type: "Goodbye", reason: "full", detail: "50 sessions, limit 50", resume_token, retry_after_s: retry, peer: "", sent_frames: 0 }, 1);
  expect(events(session)).toContainEqual({
    type: "Disconnected", reason: "full: 50 sessions, limit 50", goodbye: { reason: "full", detail: "50 sessions, limit 50" },
  });
  session.disconnected("the connection ended (1006)");
  expect(events(session)).toEqual([{ type: "Disconnected", reason: "the connection ended (1006)", goodbye: null }]);
});

test("rubbish closes the session with Goodbye(protocol)", () => {
  const session = opened();
  session.receiveOn("control", new Uint8Array([1, 2, 3]), 0.1);
  expect(session.state).toBe("closed");
  const goodbye = session.pollSend(0.1)!.message;
  expect(goodbye.type === "Goodbye" && goodbye.reason).toBe("protocol");
});

test("a message on a channel that is not its own breaks the contract", () => {
  const session = opened();
  session.receiveOn("results", pack({ type: "Credit", sent_frames_max: 9, valid_for_ms: 1000 }), 0.1);
  expect(session.state).toBe("closed");
});

test("a wrong token closes the session for good", () => {
  const session = new EdgeSession({ codecId: "" });
  session.connected(0);
  give(session, {
    type: "Goodbye", reason: "unauthorised", detail: "wrong token", resume_token: new Uint8Array(0), retry_after_s: 0,
    peer: "", sent_frames: 0,
  }, 0.1);
  expect(events(session)).toContainEqual({ type: "Closed", reason: "unauthorised", detail: "wrong token", clean: false });
  expect(session.wantsConnection).toBe(false);
});

test("pings are 8 in quick succession, then one a second, and give the clock's offset", () => {
  const session = opened();
  let pings = 0;
  for (let now = 0.001; now < 1; now += 0.025) {
    session.timer(now);
    for (let out = session.pollSend(now); out; out = session.pollSend(now)) {
      if (out.message.type !== "Ping") continue;
      pings++;
      give(session, {
        type: "Pong", ping: out.message.ping, sent_at_us: out.message.sent_at_us,
        received_at_us: out.message.sent_at_us + 5_000_000, replied_at_us: out.message.sent_at_us + 5_000_000,
      }, now);
    }
  }
  expect(pings).toBe(8);
  expect(session.clock.offset).toBeCloseTo(5, 3);
});

function control(fpsMax: number): RateControl {
  return new RateControl([{ point: 0, name: "only", bytesMean: 10, lossPoints: null, layerLossPoints: [] }], fpsMax);
}

test("with rate control a frame leaves when it is its turn, by the timer, and the newest one", () => {
  const session = opened();
  session.sending.steer(control(2), 0.001);
  frame(session, 0, 0.01);
  expect(sent(session, 0.01)).toContain("Frame");
  frame(session, 1, 0.1);
  expect(sent(session, 0.1)).not.toContain("Frame");
  frame(session, 2, 0.2);
  sent(session, 0.2);
  expect(session.account.dropped).toEqual({ superseded: 1 });
  expect(session.sending.turnAt).toBeCloseTo(0.26, 6);
  expect(session.timerAt()!).toBeLessThanOrEqual(0.26);
  session.timer(0.261);
  expect(sent(session, 0.261)).toContain("Frame");
});

test("what rate control knows of a connection ends with it", () => {
  const session = opened();
  const steered = control(30);
  session.sending.steer(steered, 0.001);
  frame(session, 0, 0.012);
  sent(session, 0.013);
  give(session, result(0, 3), 0.04);
  expect(steered.kbps).not.toBe(null);
  session.disconnected("cut");
  session.connected(0.1);
  expect(steered.kbps).toBe(null);
});

test.each([false, true])("any order, loss and doubling of answers keeps the count equation (rate control: %s)", (steered) => {
  let seed = 7;
  const random = (below: number) => (seed = (seed * 1103515245 + 12345) % 2 ** 31) % below;
  const session = opened();
  if (steered) session.sending.steer(control(30), 0.001);
  let newest = -1;
  let grant = 2;
  for (let step = 0; step < 3000; step++) {
    const now = 0.01 + step * 0.01;
    if (random(2)) frame(session, ++newest, now);
    sent(session, now);
    const about = newest - random(12);
    const known = about >= 0 && (session.account.inFlight.has(about) ? session.canSend(now) : true);
    if (known && random(3)) give(session, result(about, (grant += random(2))), now);
    session.timer(now);
    expect(session.account.balanced).toBe(true);
    if (session.state === "closed") break;
  }
  session.stop(1000);
  expect(session.account.inFlight.size).toBe(0);
});
