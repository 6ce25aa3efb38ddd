import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { LeastDelay, median } from "../src/wire/least_delay";
import { RateControl } from "../src/wire/rate_control";
import { lossWith, rateLadder, type MeasuredPoint } from "../src/wire/rungs";

type Step = [string, ...unknown[]];
interface Trace {
  name: string;
  ladder: [number, string, number][];
  fps_max: number;
  budget_s: number;
  part_bytes: number;
  steps: Step[];
}
const TRACES = JSON.parse(readFileSync(new URL("../../tests/golden/rate_control/traces.json", import.meta.url), "utf-8")) as Trace[];
const ROOM_BYTES = 4000;

function point(name: string, bytesMean: number, lossPoints: number | null = null, layerLossPoints: number[] = []): MeasuredPoint {
  return { name, bytesMean, lossPoints, layerLossPoints };
}

const POINTS = [point("low", 1692, 10.9), point("standard", 4067, 8.3, [40, 20]), point("high", 5295, 7.9)];

function controlOf(trace: Trace): RateControl {
  const rungs = trace.ladder.map(([index, name, bytes]) => ({ ...point(name, bytes), point: index }));
  const control = new RateControl(rungs, trace.fps_max, trace.budget_s);
  control.partBytes = trace.part_bytes;
  return control;
}

function known(value: number): number | null {
  return Number.isFinite(value) ? value : null;
}

/** The step as it should stand in the file (tests/golden/rate_control/make_traces.py). */
function followed(control: RateControl, [name, ...told]: Step): Step {
  const [one, two, three, four] = told as [number, number, number, number];
  const outcome = (): unknown[] => [control.choice.index, control.choice.fps, control.choice.kbps, control.loss];
  switch (name) {
    case "opened": control.opened(); break;
    case "pinged": control.pinged(one, two, three); break;
    case "credited": control.credited(one); break;
    case "sent": control.sent(one, two, three, four); break;
    case "acknowledged":
      control.acknowledged(one, two, three);
      return [name, one, two, three, outcome()];
    case "refused":
      control.refused(one, two, Boolean(three));
      return [name, one, two, three, outcome()];
    case "send_at": {
      const toEncode = control.choiceAt(one).index;
      const at = control.sendAt(one);
      return [name, one, toEncode, known(at), control.choice.index, known(control.room(ROOM_BYTES))];
    }
    default: throw new Error(`unknown step ${name}`);
  }
  return [name, ...told];
}

test.each(TRACES)("it decides as Python at every step of $name", (trace) => {
  const control = controlOf(trace);
  trace.steps.forEach((step, number) => expect(followed(control, step), `step ${number}`).toEqual(step));
});

/** Frames of a rung's size over a link of so many bytes a second, 20 a second, until `seconds`. */
function streamed(control: RateControl, rate: number, seconds: number): string[] {
  const names = [];
  let free = 0;
  for (let frame = 0; frame < seconds * 20; frame++) {
    const now = frame / 20;
    if (control.sendAt(now) > now) continue;
    const { rung } = control.choiceAt(now);
    names.push(rung.name);
    control.sent(frame, rung.bytesMean, now);
    free = Math.max(free, now) + rung.bytesMean / rate;
    control.acknowledged(frame, free, free + 0.005);
  }
  return names;
}

test("automatic quality begins low and rises with the link", () => {
  const names = streamed(new RateControl(rateLadder(POINTS, 1)), 1e6, 3);
  expect([names[0], names.at(-1)]).toEqual(["low", "high"]);
});

test("a pinned point is kept whatever the link, and the frame rate gives way", () => {
  const slow = new RateControl(rateLadder(POINTS, 1, 2));
  const names = streamed(slow, 40_000, 5);
  expect(new Set(names)).toEqual(new Set(["high"]));
  expect(names.length).toBeLessThan(60);
  expect(slow.choice.fps).toBeLessThan(10);
  expect(slow.choice.rung.point).toBe(2);
  expect(new Set(streamed(new RateControl(rateLadder(POINTS, 1, 0)), 1e6, 3))).toEqual(new Set(["low"]));
});

test("pinning and letting go keep what is known of the link, and the point while it may stay", () => {
  const control = new RateControl(rateLadder(POINTS, 1));
  streamed(control, 1e6, 3);
  const { kbps } = control;
  control.climb(rateLadder(POINTS, 1, 0));
  expect([control.choice.rung.name, control.choiceAt(99).rung.name, control.kbps]).toEqual(["low", "low", kbps]);
  control.climb(rateLadder(POINTS, 1, 2));
  control.climb(rateLadder(POINTS, 1));
  expect([control.choice.index, control.choice.rung.name, control.kbps]).toEqual([2, "high", kbps]);
});

test("points that were not measured leave the default one, and a pinned one wins over that too", () => {
  const unmeasured = [point("low", 0), point("standard", 4067), point("high", 0)];
  expect(rateLadder(unmeasured, 1).map(({ name }) => name)).toEqual(["standard"]);
  expect(rateLadder(unmeasured, 1, 2)).toMatchObject([{ point: 2, name: "high", bytesMean: 1 }]);
});

test("the ladder is sorted by bytes and keeps the points' numbers", () => {
  const control = new RateControl(rateLadder([...POINTS].reverse(), 0));
  expect(control.ladder.map((rung) => [rung.point, rung.name])).toEqual([[2, "low"], [1, "standard"], [0, "high"]]);
  expect(() => new RateControl([])).toThrow("at least one rung");
});

test("what an answer is expected to lose depends on the layers that arrived", () => {
  const rung = rateLadder(POINTS, 1)[1]!;
  expect([lossWith(rung, 8, 8), lossWith(rung, 1, 8), lossWith(rung, 2, 8), lossWith(rung, 5, 8)]).toEqual([8.3, 40, 20, null]);
});

test("a way that became longer counts as it is then", () => {
  const least = new LeastDelay();
  expect(least.value).toBe(null);
  for (let second = 0; second < 40; second++) least.add(second < 10 ? 0.05 : 0.08, second);
  expect(least.value).toBe(0.08);
  expect([median([3, 1, 2]), median([4, 1])]).toEqual([2, 2.5]);
});
