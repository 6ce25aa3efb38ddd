import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { layerEnds } from "../src/codec/bitstream";
import { toHex } from "../src/codec/golden";
import { DATAGRAM_BYTES_MAX } from "../src/limits";
import { ResultReader } from "../src/transport/results";
import { SendBuffer } from "../src/transport/send_buffer";
import { PART_BYTES } from "../src/transport/webrtc";
import { cut } from "../src/wire/cutting";
import type { EdgeEvent } from "../src/wire/events";
import { LossEstimate } from "../src/wire/loss";
import { pack } from "../src/wire/messages";
import type { Outgoing } from "../src/wire/outgoing";
import { parityOf, parityWorth, wholeShare } from "../src/wire/parity";
import { EdgeSession } from "../src/wire/session";
import { give, MARKS, welcome } from "./answers";

/** A bitstream's header with layers of so many words, and their bytes. */
function bitstream(...words: number[]): Uint8Array {
  const lengths = words.flatMap((count) => (count < 128 ? [count] : [(count % 128) | 128, count >> 7]));
  const bytes = words.reduce((sum, count) => sum + 2 * count, 0);
  return Uint8Array.from([0xf1, 0, words.length - 1, 27, 27, ...lengths, 0, 0, ...Array<number>(bytes).fill(7)]);
}

function fromHex(text: string): Uint8Array {
  return Uint8Array.from(text.match(/../g) ?? [], (pair) => parseInt(pair, 16));
}

function session(partBytes: number): EdgeSession {
  const one = new EdgeSession({ codecId: "c" });
  one.partBytes = partBytes;
  one.connected(0);
  one.pollSend(0);
  give(one, welcome(), 0.001);
  return one;
}

function offer(one: EdgeSession, frame: number, payload: Uint8Array, now: number): void {
  one.capture(frame, now);
  one.offer(frame, payload, { ...MARKS, capturedAt: now }, now);
}

function frames(one: EdgeSession, now: number): Outgoing[] {
  const all = [];
  for (let out = one.pollSend(now); out; out = one.pollSend(now)) if (out.channel === "frames") all.push(out);
  return all;
}

test("a frame goes in parts that fit a datagram, and together they are the bitstream", () => {
  const one = session(PART_BYTES);
  const payload = Uint8Array.from({ length: 3000 }, (_, index) => index % 251);
  offer(one, 0, payload, 0.01);
  const parts = frames(one, 0.012).map((out) => out.message);
  expect(parts.map((part) => part.type === "FramePart" && [part.part, part.parts])).toEqual([[0, 3], [1, 3], [2, 3]]);
  expect(parts.every((part) => pack(part).length <= DATAGRAM_BYTES_MAX)).toBe(true);
  const joined = parts.flatMap((part) => (part.type === "FramePart" ? [...part.bytes] : []));
  expect(joined).toEqual([...payload]);
});

test("a frame that fits goes whole", () => {
  const one = session(PART_BYTES);
  offer(one, 0, new Uint8Array(PART_BYTES), 0.01);
  expect(frames(one, 0.012).map((out) => out.message.type)).toEqual(["Frame"]);
});

test("parts that would come too late are not sent", () => {
  const one = session(100);
  offer(one, 0, new Uint8Array(300), 0.01);
  expect(one.pollSend(0.02)?.frame).toBe(0);
  expect(frames(one, 0.52)).toEqual([]);
});

test("the parts of a frame that ended meanwhile are not sent", () => {
  const one = session(100);
  offer(one, 0, new Uint8Array(300), 0.01);
  one.pollSend(0.02);
  one.unsent(0, "the channel did not take it in time");
  expect(frames(one, 0.021)).toEqual([]);
  const events: EdgeEvent[] = [];
  for (let event = one.nextEvent(); event; event = one.nextEvent()) events.push(event);
  expect(events).toContainEqual({ type: "FrameDropped", frame: 0, cause: "send_failed", detail: "the channel did not take it in time" });
  expect(one.account.balanced).toBe(true);
});

test("ends of layers are read from the header, and are those of golden bitstreams", () => {
  expect(layerEnds(bitstream(40, 20))).toEqual([89, 129]);
  expect(layerEnds(bitstream(300, 20))).toEqual([610, 650]);
  expect(layerEnds(new Uint8Array(100))).toEqual([]);
  for (const name of ["full", "reference", "everything"]) {
    const text = readFileSync(new URL(`../../tests/golden/bitstream/${name}.json`, import.meta.url), "utf-8");
    const found = text.match(/(?<=")f1[0-9a-f]{40,}(?=")/g) ?? [];
    expect(found.length).toBeGreaterThan(0);
    const streams = found.map(fromHex); // Cut ones among them.
    expect(streams.some((bytes) => layerEnds(bytes).at(-1) === bytes.length)).toBe(true);
  }
});

test("without parity a frame is cut where layers end, if that takes no part more", () => {
  const payload = bitstream(40, 30, 20); // 10 bytes of header; layers end at 90, 150, 190.
  expect(cut(payload, 100, true).map((piece) => piece.length)).toEqual([90, 100]);
  expect(cut(payload, 100, false).map((piece) => piece.length)).toEqual([95, 95]);
  expect(cut(payload, 160, true).map((piece) => piece.length)).toEqual([150, 40]);
});

interface ParityVector {
  name: string;
  parts: string[];
  parity: string[];
}
const PARITY = JSON.parse(readFileSync(new URL("../../tests/golden/wire/parity.json", import.meta.url), "utf-8")) as ParityVector[];

test.each(PARITY)("parity of $name is that of Python", ({ parts, parity }) => {
  expect(parityOf(parts.map(fromHex), parity.length).map(toHex)).toEqual(parity);
});

test("parity is worth its bytes on a link that loses, and only there", () => {
  expect(parityWorth(4, 0)).toBe(0);
  expect(parityWorth(4, 0.02)).toBe(1);
  expect(parityWorth(4, 0.1)).toBeGreaterThan(1);
  expect(parityWorth(4, 0.5, 2)).toBe(2);
  expect(wholeShare(4, 1, 0.1)).toBeCloseTo(0.9 ** 5 + 5 * 0.1 * 0.9 ** 4, 10);
});

test("a server that knows parity gets it until it says that nothing is lost", () => {
  const one = new EdgeSession({ codecId: "c" });
  one.partBytes = 100;
  one.connected(0);
  one.pollSend(0);
  give(one, welcome({ parity_parts_max: 3, sent_frames_max: 1000 }), 0.001);
  offer(one, 0, new Uint8Array(300), 0.01);
  const first = frames(one, 0.011).map(({ message }) => message.type === "FramePart" && [message.part, message.parts, message.parity]);
  expect(first).toEqual([[0, 3, 1], [1, 3, 1], [2, 3, 1], [3, 3, 1]]);
  let parts = first.length;
  for (let frame = 1; frame <= 200; frame++) {
    const now = frame / 10;
    give(one, { type: "Credit", sent_frames_max: 1000, valid_for_ms: 2000 }, now);
    offer(one, frame, new Uint8Array(300), now);
    parts += frames(one, now + 0.001).length;
    one.sending.loss.told(frame + 1, parts);
  }
  expect(one.sending.loss.share).toBeLessThan(0.002);
  offer(one, 201, new Uint8Array(300), 20.1);
  expect(frames(one, 20.11)).toHaveLength(3);
});

test("loss is what the server did not get of what was sent", () => {
  const loss = new LossEstimate();
  for (let ordinal = 1; ordinal <= 1000; ordinal++) {
    for (let part = 0; part < 4; part++) loss.sent(ordinal);
    loss.told(ordinal, Math.round(4 * ordinal * 0.9));
  }
  expect(loss.share).toBeCloseTo(0.1, 1);
  const before = loss.share;
  loss.told(500, 2);
  expect(loss.share).toBe(before);
});

function part(frame: number, number: number, parts: number, bytes: Uint8Array, expiresAt = 1): Outgoing {
  const message = { type: "FramePart" as const, frame, part: number, parts, age_at_send_us: 0, budget_us: 500_000, bytes, sent: 1 };
  return { channel: "frames", message, frame, expiresAt };
}

test("what is too old never leaves, and is told once if nothing of it has left", () => {
  const buffer = new SendBuffer();
  for (const frame of [1, 2]) for (const number of [0, 1]) buffer.add(part(frame, number, 2, bitstream(5), frame));
  expect(buffer.take(0.5).next?.frame).toBe(1);
  expect(buffer.take(1.5)).toMatchObject({ next: { frame: 2 }, ended: [] });
  expect(buffer.take(2.5)).toEqual({ next: null, ended: [] });
  buffer.add(part(3, 0, 2, bitstream(5), 3));
  buffer.add(part(3, 1, 2, bitstream(5), 3));
  expect(buffer.take(3.5)).toEqual({ next: null, ended: [3] });
});

function datagram(...messages: number[][]): Uint8Array {
  return Uint8Array.from(messages.flatMap((message) => [message.length, 0, ...message]));
}

test("repeated results are left out, the others come oldest first", () => {
  const reader = new ResultReader();
  expect(reader.unpack(datagram([1, 1])).map((message) => [...message])).toEqual([[1, 1]]);
  expect(reader.unpack(datagram([3], [2, 2], [1, 1])).map((message) => [...message])).toEqual([[2, 2], [3]]);
});

test.each([[[5, 0, 1]], [[0, 0]], [[7]]])("%j is no datagram of results: the session says so", (bytes) => {
  expect(new ResultReader().unpack(Uint8Array.from(bytes)).map((message) => [...message])).toEqual([[0xc1]]);
});
