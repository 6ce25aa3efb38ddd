/** A recording's course as lines over time: click to go there, drag to look closer. */
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import { element } from "../page/dom";
import type { Line } from "./charts";
import { clockText } from "./parts";

const HEIGHT = 150;
/** Times of less than this, in seconds, are told with tenths. */
const SHORT_S = 10;
/** A drag of fewer pixels is a click. */
const DRAG_PIXELS = 8;

export class CourseChart {
  readonly root = element("div", { class: "chart", role: "img" });
  private readonly marker = element("div", { class: "marker", hidden: "" });
  private plot: uPlot | null = null;
  private data: (number | null)[][] = [];
  private at = 0;

  constructor(
    private readonly title: string,
    private readonly lines: readonly Line[],
    private readonly onSeek: (at: number) => void,
    private readonly onRange: (from: number, to: number) => void,
  ) {
    new ResizeObserver(() => this.resize()).observe(this.root);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.rebuild());
  }

  show(times: readonly number[], values: readonly (readonly (number | null)[])[]): void {
    this.data = [[...times], ...values.map((line) => [...line])];
    const peaks = this.lines.map((line, place) => `${line.label} up to ${Math.max(0, ...values[place]!.map((value) => value ?? 0)).toFixed(1)}`);
    this.root.setAttribute("aria-label", `${this.title}: ${peaks.join(", ")}`);
    this.rebuild();
  }

  /** Where the slider is, in seconds. */
  mark(at: number): void {
    this.at = at;
    const scale = this.plot?.scales.x;
    if (!this.plot || scale?.min === undefined || scale.max === undefined) return;
    this.marker.hidden = at < scale.min! || at > scale.max!;
    this.marker.style.left = `${this.plot.valToPos(at, "x")}px`;
  }

  private rebuild(): void {
    this.plot?.destroy();
    this.plot = null;
    if (!this.root.clientWidth || !this.data.length) return;
    const colour = (name: string) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
    const axis = { stroke: colour("--quiet"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, font: "12px system-ui" };
    this.plot = new uPlot(
      {
        title: this.title, width: this.root.clientWidth - 16, height: HEIGHT, legend: { show: this.lines.length > 1, live: false },
        cursor: { y: false, sync: { key: "recording" }, drag: { x: true, y: false, setScale: false } },
        scales: { x: { time: false }, y: { range: (_, __, max) => [0, Math.max(1, (max ?? 1) * 1.1)] } },
        axes: [{ ...axis, values: (_, splits) => splits.map((split) => clockText(split, this.shows() < SHORT_S ? 1 : 0)) }, { ...axis, size: 48 }],
        series: [{}, ...this.lines.map((line) => ({ label: line.label, stroke: colour(line.colour), width: 2, spanGaps: true, points: { show: this.data[0]!.length < 20 } }))],
        hooks: { setSelect: [(plot) => this.selected(plot)], ready: [(plot) => this.ready(plot)] },
      },
      this.data as uPlot.AlignedData,
      this.root,
    );
    this.mark(this.at);
  }

  private ready(plot: uPlot): void {
    plot.over.append(this.marker);
    plot.over.addEventListener("click", (event) => {
      const left = event.clientX - plot.over.getBoundingClientRect().left;
      if (plot.select.width < DRAG_PIXELS) this.onSeek(plot.posToVal(left, "x"));
    });
  }

  private selected(plot: uPlot): void {
    const { left, width } = plot.select;
    if (width < DRAG_PIXELS) return;
    const from = plot.posToVal(left, "x");
    const to = plot.posToVal(left + width, "x");
    setTimeout(() => this.onRange(from, to)); // Not while uPlot is at it: this builds the chart anew.
  }

  /** Seconds from its first point to its last. */
  private shows(): number {
    const times = this.data[0]!;
    return (times.at(-1) ?? 0) - (times[0] ?? 0);
  }

  private resize(): void {
    const width = this.root.clientWidth - 16;
    if (width <= 0) return;
    if (!this.plot) this.rebuild();
    else if (width !== this.plot.width) {
      this.plot.setSize({ width, height: HEIGHT });
      this.mark(this.at);
    }
  }
}
