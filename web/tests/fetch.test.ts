import { beforeEach, expect, test, vi } from "vitest";
import { fetchBundle } from "../src/bundle/fetch";
import { BundleError } from "../src/errors";
import { pack, unpack, type BundlePart } from "../src/wire/messages";
import { welcome } from "./answers";

const CODEC = "ab".repeat(32);
const TIMEOUT_MS = 2_000;

/** What the server says to each request in turn; then it says nothing more. */
let answers: Partial<BundlePart>[];
let asked: number[];

/** A server at the other end of a WebSocket. */
class FakeSocket {
  static readonly OPEN = 1;
  readonly readyState = 1;
  readonly bufferedAmount = 0;
  onopen: (() => void) | null = null;
  onmessage: ((event: { data: ArrayBuffer }) => void) | null = null;
  onclose: ((event: { code: number }) => void) | null = null;

  constructor() {
    queueMicrotask(() => this.onopen?.());
  }

  send(bytes: Uint8Array): void {
    const message = unpack(bytes.subarray(1));
    if (message.type === "Hello") this.say(pack(welcome({ codec_id: CODEC }), 0));
    if (message.type !== "BundleRequest") return;
    asked.push(message.offset);
    const answer = answers.shift();
    if (answer) this.say(pack({ type: "BundlePart", codec_id: CODEC, offset: message.offset, total: 4, part: new Uint8Array(2), ...answer }, 0));
  }

  close(): void {}

  private say(bytes: Uint8Array): void {
    queueMicrotask(() => this.onmessage?.({ data: bytes.slice().buffer as ArrayBuffer }));
  }
}

// Left so: a connection that was closed looks once more a second later.
vi.stubGlobal("WebSocket", FakeSocket);
vi.stubGlobal("document", { baseURI: "http://127.0.0.1/" });
vi.stubGlobal("self", {}); // No cache.
vi.stubGlobal("crypto", {}); // The id is not checked, as over plain HTTP.

beforeEach(() => {
  answers = [];
  asked = [];
});

function fetched(): Promise<Uint8Array> {
  return fetchBundle("", CODEC, () => {}, new AbortController().signal, () => {});
}

test("a bundle is put together of its parts", async () => {
  answers = [{ part: Uint8Array.of(1, 2, 3) }, { part: Uint8Array.of(4) }];
  expect([...(await fetched())]).toEqual([1, 2, 3, 4]);
  expect(asked).toEqual([0, 3]);
}, TIMEOUT_MS);

test.each<[string, Partial<BundlePart>[]]>([
  ["0 of 4 bytes", [{ part: new Uint8Array(0) }]],
  ["0 of 0 bytes", [{ total: 0, part: new Uint8Array(0) }]],
  ["0 of 4 bytes", [{}, { part: new Uint8Array(0) }]],
  ["3 of 5 bytes", [{}, { total: 5, part: new Uint8Array(3) }]],
  ["1 of 3 bytes", [{}, { total: 3, part: new Uint8Array(1) }]],
  ["of bundle cdcdcdcdcdcd", [{}, { codec_id: "cd".repeat(32) }]],
])("parts that do not fit together end it: %s", async (words, wrong) => {
  answers = [...wrong];
  const error = await fetched().catch((reason: unknown) => reason);
  expect(error).toBeInstanceOf(BundleError);
  expect((error as Error).message).toContain(words);
  expect(asked.length).toBe(wrong.length);
}, TIMEOUT_MS);
