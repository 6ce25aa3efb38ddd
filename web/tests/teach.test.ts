import { afterEach, expect, test, vi } from "vitest";
import { NotAllowed, refusal, TeachClient, TeachError, viewsIn } from "../src/teach/client";
import { holdingText, learntText, tooFewText } from "../src/teach/words";

afterEach(() => void vi.unstubAllGlobals());

function capture(views: number): Uint8Array {
  const header = new TextEncoder().encode(JSON.stringify({ pooled: { dtype: "F32", shape: [views, 4], data_offsets: [0, 16 * views] } }));
  const bytes = new Uint8Array(8 + header.length + 16 * views);
  new DataView(bytes.buffer).setUint32(0, header.length, true);
  bytes.set(header, 8);
  return bytes;
}

function lesson(labels: Record<string, number>, confusions: [string, string][] = []) {
  return { task: "things", version: 1, labels, confusions, notes: [], taught_s: 0.7 };
}

test("views are counted from what the server packed", () => {
  expect(viewsIn(capture(3))).toBe(3);
  expect(viewsIn(Uint8Array.of(1, 2, 3))).toBe(0);
});

test("one thing alone: what else to show is said", () => {
  expect(learntText(lesson({ mug: 14 }))).toMatch(/“mug” alone.*show what it is not/);
});

test("things that look alike, or of which little was seen, are named", () => {
  expect(learntText(lesson({ mug: 14, cup: 12 }, [["mug", "cup"]]))).toMatch(/“mug” and “cup” still look alike/);
  expect(learntText(lesson({ mug: 15, cup: 6 }))).toMatch(/few views of “cup”/);
  expect(learntText(lesson({ mug: 15, cup: 16 }))).toMatch(/tells 2 things apart/);
});

test("while it is held one hears when it is enough, and afterwards when it was not", () => {
  expect([1, 9, 15].map(holdingText)).toEqual(["Looking … 1 view", "9 views, go on", "15 views, let go"]);
  expect(tooFewText(2)).toMatch(/Only 2 views came, 8 are needed/);
  expect(tooFewText(0)).toMatch(/Nothing was seen/);
});

test.each([
  [401, '{"error": "missing or wrong bearer token"}', /administrator/],
  [422, '{"error": "task x has nothing to learn from: show something first"}', /^Task x has nothing/],
  [404, "not found", /older/],
  [500, "<html>", /HTTP 500/],
])("a refusal with %i is told in words", (status, body, words) => {
  expect(refusal(status, body).message).toMatch(words);
  expect(refusal(status, body) instanceof NotAllowed).toBe(status === 401);
});

test("a server that does not answer is told in words", async () => {
  vi.stubGlobal("fetch", () => Promise.reject(new TypeError("Failed to fetch")));
  await expect(new TeachClient(() => "").known()).rejects.toThrow(TeachError);
  await expect(new TeachClient(() => "").known()).rejects.toThrow(/did not answer/);
});

test("the token goes in a header, names go in the address as they must", async () => {
  const calls: [string, RequestInit][] = [];
  vi.stubGlobal("fetch", (url: string, wish: RequestInit) => {
    calls.push([url, wish]);
    return Promise.resolve(new Response('{"labels": {}}'));
  });
  await new TeachClient(() => "secret").forget("my things", "a/b");
  expect(calls[0]![0]).toBe("/api/v1/tasks/my%20things/examples?label=a%2Fb");
  expect(calls[0]![1].headers).toEqual({ Authorization: "Bearer secret" });
});
