import { expect, test } from "vitest";
import { parseContexts } from "../src/codec/contexts";
import { BundleError } from "../src/errors";

const LAYERS = [2, 3];

/** One entry of the inter set, for all layers, with these terms. */
function inter(...terms: unknown[]): unknown[] {
  return [{ set: "inter", terms }];
}

function only(layer: number, ...terms: unknown[]): unknown[] {
  return [{ set: "intra", layers: [layer], terms }];
}

test("what fits is read", () => {
  const contexts = parseContexts([
    { set: "places" },
    { set: "intra", layers: [1], terms: [{ kind: "layer", clip: 7, sources: [0, 1, 1] }, { kind: "none" }] },
    { set: "inter", terms: [{ kind: "reference", clip: 1 }, { kind: "previous", thresholds: [-16384, 0, 16384] }, { kind: "changes", thresholds: [1, 256] }] },
  ], LAYERS);
  expect(contexts.places).toBe(true);
  expect(contexts.intra[0]).toEqual([]);
  expect(contexts.intra[1]![0]).toEqual({ kind: "layer", clip: 7, thresholds: [], sources: [0, 1, 1] });
  expect(contexts.inter!.map((terms) => terms.map((term) => term.kind))).toEqual(Array(2).fill(["reference", "previous", "changes"]));
});

/** As tests/pipeline/codec/test_contexts.py. */
test.each<[string, unknown[]]>([
  ["no table", ["intra"]],
  ["set is outer", [{ set: "outer", terms: [] }]],
  ["set is places", [{ set: "places", terms: [] }]],
  ["it has term, expected set, layers, terms", [{ set: "intra", term: [] }]],
  ["terms is no list", [{ set: "intra", terms: "none" }]],
  ["layer 2 is not one of 0 to 1", [{ set: "intra", layers: [2], terms: [] }]],
  ["layer -1 is not one of 0 to 1", [{ set: "intra", layers: [-1], terms: [] }]],
  ["layers has 0.5", [{ set: "intra", layers: [0.5], terms: [] }]],
  ["layers has true", [{ set: "intra", layers: [true], terms: [] }]],
  ["there is a map of places, but no inter set", [{ set: "places" }]],
  ["kind is wavelet", inter({ kind: "wavelet" })],
  ["kind is toString", inter({ kind: "toString" })],
  ["contexts term: it is no table", inter("none")],
  ["parameters are none, expected clip", inter({ kind: "reference" })],
  ["parameters are clip, thresholds, expected clip", inter({ kind: "reference", clip: 3, thresholds: [1] })],
  ["clip has 1.5", inter({ kind: "reference", clip: 1.5 })],
  ["intra contexts of layer 0: kind reference stands in the inter set only", [{ set: "intra", terms: [{ kind: "reference", clip: 3 }] }]],
  ["kind reference_neighbourhood stands", only(1, { kind: "reference_neighbourhood", thresholds: [1] })],
  ["inter contexts of layer 0: clip is 8, expected 1 to 7", inter({ kind: "reference", clip: 8 })],
  ["clip is 0", inter({ kind: "reference", clip: 0 })],
  ["thresholds are []", only(0, { kind: "checkerboard", thresholds: [] })],
  ["thresholds are [2, 2]", only(0, { kind: "checkerboard", thresholds: [2, 2] })],
  ["thresholds are [0]", only(0, { kind: "checkerboard", thresholds: [0] })],
  ["thresholds are [16385]", only(0, { kind: "previous", thresholds: [16385] })],
  ["thresholds are [-16385]", only(0, { kind: "previous", thresholds: [-16385] })],
  ["1 to 8 rising numbers", only(0, { kind: "previous", thresholds: [1, 2, 3, 4, 5, 6, 7, 8, 9] })],
  ["from 1 to 256", only(0, { kind: "changes", thresholds: [1, 257] })],
  ["more than one term", only(0, { kind: "checkerboard", thresholds: [1] }, { kind: "previous", thresholds: [1] })],
  ["3 terms make 735 contexts", inter({ kind: "reference", clip: 7 }, { kind: "reference", clip: 3 }, { kind: "reference", clip: 3 })],
  ["9 terms make 1 contexts", only(0, ...Array<unknown>(9).fill({ kind: "none" }))],
  ["2 sources for 3 channels", only(1, { kind: "layer", clip: 1, sources: [0, 1] })],
  ["source channel 2 is in no earlier layer, expected 0 to 1", only(1, { kind: "layer", clip: 1, sources: [0, 1, 2] })],
  ["source channel -1", only(1, { kind: "layer", clip: 1, sources: [0, -1, 1] })],
  ["source channel 0 is in no earlier layer", only(0, { kind: "layer", clip: 1, sources: [0, 0] })],
])("contexts are refused: %s", (words, entries) => {
  const parse = (): unknown => parseContexts(entries, LAYERS);
  expect(parse).toThrow(BundleError);
  expect(parse).toThrow(words);
});
