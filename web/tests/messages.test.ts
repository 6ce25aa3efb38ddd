import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { toHex } from "../src/codec/golden";
import { RemoteProtocolError } from "../src/errors";
import { pack, unpack, type Message } from "../src/wire/messages";

interface Golden {
  name: string;
  hex: string;
  message: Record<string, unknown>;
}
const VECTORS = JSON.parse(
  readFileSync(new URL("../../tests/golden/wire/messages.json", import.meta.url), "utf-8"),
) as Golden[];

function fromHex(text: string): Uint8Array {
  return Uint8Array.from(text.match(/../g) ?? [], (pair) => parseInt(pair, 16));
}

/** Bytes stand in JSON as {"hex": "…"}. */
function plain(value: unknown): unknown {
  if (value instanceof Uint8Array) return { hex: toHex(value) };
  if (Array.isArray(value)) return value.map(plain);
  if (value && typeof value === "object") {
    return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, plain(one)]));
  }
  return value;
}

describe("messages are those of Python", () => {
  test.each(VECTORS)("$name: fields", ({ hex, message }) => expect(plain(unpack(fromHex(hex)))).toEqual(message));
  test.each(VECTORS)("$name: bytes", ({ hex }) => expect(toHex(pack(unpack(fromHex(hex))))).toBe(hex));
});

test.each([[""], ["90"], ["c0"], ["9163"], ["920ac0"], ["ff00ff"], ["dd7fffffff"], ["930aa0a0"]])(
  "%s is no message", (hex) => expect(() => unpack(fromHex(hex))).toThrow(RemoteProtocolError),
);

test("a channel byte goes in front", () => {
  const credit: Message = { type: "Credit", sent_frames_max: 4, valid_for_ms: 2000 };
  expect(toHex(pack(credit, 0))).toBe("00930a04cd07d0");
});
