import { readdirSync, readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { encodeGolden, type GoldenFile } from "../src/codec/golden";
import { assemble } from "../src/codec/latent_encoder";
import { quantise } from "../src/codec/quantisation";

const FOLDER = new URL("../../tests/golden/bitstream/", import.meta.url);

describe("bitstreams are those of Python", () => {
  for (const name of readdirSync(FOLDER).filter((file) => file.endsWith(".json"))) {
    const file = JSON.parse(readFileSync(new URL(name, FOLDER), "utf-8")) as GoldenFile;
    for (const [what, expected, actual] of encodeGolden(file)) {
      test(`${name}: ${what}`, () => expect(actual).toBe(expected));
    }
  }
});

test("layers may take as many bytes as in Python and C, 80 below the limit of a payload, whatever the header takes", () => {
  const grid = { height: 1, width: 1 };
  expect(assemble([new Uint8Array(262_064 - 10), new Uint8Array(10)], grid, 0, null)).toHaveLength(262_064 + 5 + 3 + 1 + 2);
  expect(() => assemble([new Uint8Array(262_064), new Uint8Array(2)], grid, 0, null)).toThrow("the layers need 262066 bytes, limit 262064");
});

test("halves round to even, NaN is 0, symbols are clipped", () => {
  const point = {
    name: "", gain: new Float32Array([1]), offset: new Float32Array([0]), stickyThreshold: 0, refreshThreshold: 0, bytesMean: 0, lossPoints: null, layerLossPoints: [],
  };
  const latent = new Float32Array([0.5, 1.5, -0.5, -2.5, NaN, 9999, -9999]);
  expect([...quantise(latent, point)]).toEqual([0, 2, 0, -2, 0, 4095, -4095]);
});

test("a symbol of the reference stays within the sticky threshold", () => {
  const point = {
    name: "", gain: new Float32Array([1]), offset: new Float32Array([0]), stickyThreshold: 0.8, refreshThreshold: 0, bytesMean: 0, lossPoints: null, layerLossPoints: [],
  };
  expect([...quantise(new Float32Array([0.7, 0.9]), point, new Int16Array([0, 0]))]).toEqual([0, 1]);
});

test("a place within the refresh threshold keeps all of its symbols, another one is refreshed", () => {
  const point = {
    name: "", gain: new Float32Array([1, 1]), offset: new Float32Array([0, 0]), stickyThreshold: 0.6, refreshThreshold: 0.9,
    bytesMean: 0, lossPoints: null, layerLossPoints: [],
  };
  // Places 0 and 1 of two channels: rms 0.85 and 1.0.
  const latent = new Float32Array([1.2, 1.4, 0.1, 0.1]);
  expect([...quantise(latent, point, new Int16Array(4))]).toEqual([0, 1, 0, 0]);
});
