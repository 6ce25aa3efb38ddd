import { expect, test } from "vitest";
import { int8Allowed } from "../src/bundle/edge_bundle";

const ANALYSIS = { name: "a", fp32: "analysis.onnx", int8: "analysis.int8.onnx" };

/** Both figures count, as in tests/pipeline/runtime/test_encoder.py. */
test.each([
  [0.05, 4, true],
  [0.1, 5, true],
  [0.05, undefined, true],
  [-0.2, 0, true],
  [0.05, 9, false],
  [0.11, 0, false],
  [undefined, 0, false],
])("int8 that loses %j points and takes %j percent more: allowed %j", (loss, bytes, allowed) => {
  expect(int8Allowed({ ...ANALYSIS, int8_extra_loss_points: loss, int8_extra_bytes_percent: bytes })).toBe(allowed);
});

test("without an int8 file there is nothing to allow", () => {
  expect(int8Allowed({ ...ANALYSIS, int8: "", int8_extra_loss_points: 0 })).toBe(false);
});
