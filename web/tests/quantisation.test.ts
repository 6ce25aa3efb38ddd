import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { quantise } from "../src/codec/quantisation";

interface Case {
  what: string;
  gain: number[];
  offset: number[];
  sticky_threshold: number;
  refresh_threshold: number;
  latent: string;
  held: string;
  symbols: string;
}
const FILE = new URL("../../tests/golden/quantisation/sticky.json", import.meta.url);
const CASES = JSON.parse(readFileSync(FILE, "utf-8")) as Case[];

function unpacked(text: string): ArrayBuffer {
  return Uint8Array.from(atob(text), (character) => character.charCodeAt(0)).buffer;
}

test.each(CASES)("symbols are those of Python: $what", (golden) => {
  const point = {
    name: "", gain: new Float32Array(golden.gain), offset: new Float32Array(golden.offset),
    stickyThreshold: golden.sticky_threshold, refreshThreshold: golden.refresh_threshold,
    bytesMean: 0, lossPoints: null, layerLossPoints: [],
  };
  const symbols = quantise(new Float32Array(unpacked(golden.latent)), point, new Int16Array(unpacked(golden.held)));
  expect([...symbols]).toEqual([...new Int16Array(unpacked(golden.symbols))]);
});
