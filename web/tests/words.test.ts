import { expect, test } from "vitest";
import { BundleError } from "../src/errors";
import { endText, troubleText, words } from "../src/page/words";

test.each([
  ["error", "the engine is gone", "Something went wrong on the server: the engine is gone."],
  ["done", "", "The server has ended the session."],
  ["limit", "payload is 9 bytes, limit 8: lower the rate.", "A limit was exceeded: payload is 9 bytes, limit 8: lower the rate."],
  ["protocol", "Hello says 2, this server 1", "This page and the server do not understand each other: Hello says 2, this server 1. If it happens again, load the page anew."],
  ["weather", "", "The server ended the session (weather)."],
])("Goodbye(%s, %s) is said in words", (reason, detail, text) => {
  expect(endText(reason, detail)).toBe(text);
});

test.each([
  [{ reason: "full", detail: "50 sessions, limit 50" }, true, "The server has no room for another session: 50 sessions, limit 50. Trying again …"],
  [{ reason: "draining", detail: "" }, false, "The server is stopping. Trying again …"],
  [null, true, "No answer from fridge:8080. Trying again …"],
  [null, false, "No network. Waiting for it …"],
])("%j, online %j: said in words while it goes on", (goodbye, online, text) => {
  expect(troubleText(goodbye, "fridge:8080", online)).toBe(text);
});

test("a server's line of any length fits the page", () => {
  expect(endText("r".repeat(9_000), "d".repeat(9_000)).length).toBeLessThan(500);
});

test("errors of our own are lines for people, others say what they are", () => {
  expect(words(new BundleError("the bundle lacks edge/spec.toml"))).toBe("the bundle lacks edge/spec.toml");
  expect(words(new TypeError("x is no function"))).toBe("TypeError: x is no function");
  expect(words("gone")).toBe("gone");
});
