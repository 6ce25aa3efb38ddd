/** Lines of the last two minutes. */
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";

const POINTS_MAX = 120;

export interface Line {
  label: string;
  /** A CSS variable of the page's colours. */
  colour: string;
}

/** One chart; `add` appends a point of each line and draws it while it is on the screen. */
export class Chart {
  private readonly data: (number | null)[][];
  private plot: uPlot | null = null;

  constructor(
    private readonly root: HTMLElement,
    private readonly title: string,
    private readonly lines: readonly Line[],
  ) {
    this.data = [[], ...lines.map(() => [])];
    new ResizeObserver(() => this.resize()).observe(root);
    // The colours are drawn into a canvas, so a change of theme draws the chart anew.
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.rebuild());
  }

  add(at: number, values: readonly (number | null)[]): void {
    [at, ...values].forEach((value, index) => {
      this.data[index]!.push(value);
      if (this.data[index]!.length > POINTS_MAX) this.data[index]!.shift();
    });
    const newest = values.map((value, index) => `${this.lines[index]!.label} ${value === null ? "none" : value.toFixed(1)}`);
    this.root.setAttribute("role", "img");
    this.root.setAttribute("aria-label", `${this.title}: ${newest.join(", ")}`);
    if (!this.plot) this.rebuild();
    else this.plot.setData(this.data as uPlot.AlignedData);
  }

  private rebuild(): void {
    this.plot?.destroy();
    this.plot = null;
    if (!this.root.clientWidth) return;
    const colour = (name: string) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
    const axis = { stroke: colour("--quiet"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, font: "12px system-ui" };
    this.plot = new uPlot(
      {
        title: this.title, width: this.root.clientWidth - 16, height: 190, cursor: { y: false },
        legend: { live: false },
        scales: { y: { range: (_, __, max) => [0, Math.max(1, (max ?? 1) * 1.1)] } },
        axes: [axis, { ...axis, size: 48 }],
        series: [{}, ...this.lines.map((line) => ({
          label: line.label, stroke: colour(line.colour), width: 2, points: { show: false },
          value: (_: uPlot, value: number | null) => (value === null || value === undefined ? "–" : value.toFixed(1)),
        }))],
      },
      this.data as uPlot.AlignedData,
      this.root,
    );
  }

  private resize(): void {
    const width = this.root.clientWidth - 16;
    if (width <= 0) return;
    if (!this.plot) this.rebuild();
    else if (width !== this.plot.width) this.plot.setSize({ width, height: 190 });
  }
}
