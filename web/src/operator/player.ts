/** One recording: its course, a slider, and what was answered at the chosen moment. */
import { element } from "../page/dom";
import { ask, askBlob, errorLine, path } from "./api";
import { CourseChart } from "./course_chart";
import { FrameBlocks, PAGE_FRAMES, type Moment, type Page } from "./frame_blocks";
import { MomentView } from "./moment_view";
import { button, clockText, sizeText } from "./parts";

const POINTS_MAX = 300;
/** Between two points of a course: shorter ones would hold one frame or none. */
const STEP_S = 0.5;
const TICK_MS = 100;
/** Between two looks at the server while the slider moves. */
const SCRUB_MS = 60;
const ZOOM = 4;
const SHORTEST_S = 1;

export interface Overview {
  name: string;
  bytes: number;
  started_ns: number;
  duration_s: number;
  indexed: boolean;
  damage: string;
  facts: { role: string; source: string; bundle_id: string; frankenstream: string; encoder: string };
  session: { client: string; server: string; backbone: string; tasks: { name: string }[] } | null;
}

interface Course {
  from_s: number;
  step_s: number;
  sampled: boolean;
  answers_per_s: number[];
  drops_per_s: number[];
  kbps: number[];
  p50_ms: (number | null)[];
  p95_ms: (number | null)[];
}

export class Player {
  readonly root = element("div", { class: "player" });
  readonly name: string;
  private readonly duration: number;
  private readonly charts: [rates: CourseChart, times: CourseChart, bits: CourseChart];
  private readonly slider = element("input", { type: "range", class: "scrub", min: "0", step: "any", "aria-label": "Time in the recording" });
  private readonly clock = element("span", { class: "clock" });
  private readonly playing = button("Play", () => this.toggle());
  private readonly whole = button("Whole recording", () => void this.showCourse(0, this.duration), { hidden: "" });
  private readonly note = element("p", { class: "note" });
  private readonly moment: MomentView;
  private readonly blocks: FrameBlocks;
  private readonly leaving = new AbortController();
  private timer = 0;
  private scrubbing = 0;
  private at = 0;
  private range: [number, number] = [0, 0];
  private pictureShown: number | null = null;

  constructor(private readonly about: Overview, private readonly tell: (line: string) => void) {
    this.name = about.name;
    this.duration = about.duration_s;
    const signal = this.leaving.signal;
    this.blocks = new FrameBlocks((from, to) =>
      ask<Page>(`${path("recordings", this.name, "frames")}?from=${from}&to=${to}&limit=${PAGE_FRAMES}`, { signal }),
    );
    const seek = (at: number) => this.seek(at);
    const range = (from: number, to: number) => void this.showCourse(from, to);
    const where = about.facts.role === "server" ? "Time on the server, ms" : "Capture to result, ms";
    this.charts = [
      new CourseChart("Answers a second", [{ label: "answered", colour: "--edge" }, { label: "dropped", colour: "--alert" }], seek, range),
      new CourseChart(where, [{ label: "p50", colour: "--edge" }, { label: "p95", colour: "--network" }], seek, range),
      new CourseChart("Payload, kbit/s", [{ label: "payload", colour: "--server" }], seek, range),
    ];
    this.moment = new MomentView(about.facts.role === "server");
    this.slider.max = String(this.duration);
    this.slider.addEventListener("input", () => this.seek(Number(this.slider.value)));
    this.slider.addEventListener("keydown", (event) => this.onKey(event));
    this.build();
  }

  start(): void {
    void this.showCourse(0, this.duration);
    this.seek(0);
    void this.blocks.step(0, 1).then((first) => { if (first !== null && this.at === 0) this.seek(first); }, () => undefined);
  }

  pause(): void {
    clearInterval(this.timer);
    this.timer = 0;
    this.playing.textContent = "Play";
  }

  close(): void {
    this.pause();
    this.leaving.abort();
    this.moment.close();
  }

  private build(): void {
    const { about } = this;
    const began = new Date(about.started_ns / 1e6).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" });
    const who = about.session?.client || about.facts.source;
    const facts = [began, clockText(this.duration), sizeText(about.bytes), who ? `from ${who}` : "", about.session?.server ?? ""].filter(Boolean);
    this.root.append(
      element("h2", {}, about.name.replace(/\.mcap$/, "")), element("p", { class: "note" }, facts.join(" · ")),
      ...(about.indexed ? [] : [element("p", { class: "note" }, "It is being written, or was cut off: what is whole is shown.")]),
      ...(about.damage ? [element("p", { class: "error" }, about.damage)] : []),
      element("div", { class: "transport" },
        this.playing, button("‹ Frame", () => void this.step(-1), { "aria-label": "Frame before" }),
        button("Frame ›", () => void this.step(1), { "aria-label": "Next frame" }), this.clock),
      this.slider,
      this.moment.root,
      element("div", { class: "line spread" }, element("h3", {}, "Course"),
        element("div", { class: "line" }, this.whole, button("Closer", () => this.closer()))),
      this.note,
      ...this.charts.map((chart) => chart.root),
    );
  }

  private seek(at: number): void {
    this.at = Math.min(this.duration, Math.max(0, at));
    this.slider.value = String(this.at);
    this.slider.setAttribute("aria-valuetext", clockText(this.at, 1));
    this.clock.textContent = `${clockText(this.at, 1)} of ${clockText(this.duration)}`;
    this.charts.forEach((chart) => chart.mark(this.at));
    const known = this.blocks.known(this.at);
    if (known) this.showMoment(known);
    else if (!this.scrubbing) {
      // The slider may be far on when the server has answered: the last place counts.
      this.scrubbing = window.setTimeout(() => {
        this.scrubbing = 0;
        void this.readMoment();
      }, SCRUB_MS);
    }
  }

  private async readMoment(): Promise<void> {
    const at = this.at;
    try {
      const moment = await this.blocks.at(at);
      if (at === this.at) this.showMoment(moment);
      else this.seek(this.at);
    } catch (error) {
      this.trouble(error);
    }
  }

  private showMoment(moment: Moment): void {
    this.moment.show(moment, this.at);
    if (moment.picture === this.pictureShown) return;
    this.pictureShown = moment.picture;
    void this.showPicture(moment.picture);
  }

  private async showPicture(at: number | null): Promise<void> {
    try {
      const picture = at === null ? null : await askBlob(`${path("recordings", this.name, "picture")}?at=${at}`, this.leaving.signal);
      if (at === this.pictureShown) this.moment.showPicture(picture);
    } catch (error) {
      this.trouble(error);
    }
  }

  private async showCourse(from: number, to: number): Promise<void> {
    const middle = (from + to) / 2;
    const half = Math.max((to - from) / 2, SHORTEST_S / 2);
    const start = Math.max(0, Math.min(middle - half, this.duration));
    const end = Math.min(this.duration, middle + half);
    try {
      const signal = this.leaving.signal;
      const points = Math.min(POINTS_MAX, Math.max(8, Math.ceil((end - start) / STEP_S)));
      const course = await ask<Course>(`${path("recordings", this.name, "course")}?from=${start}&to=${end}&points=${points}`, { signal });
      this.range = [start, end];
      const times = course.answers_per_s.map((_, place) => course.from_s + (place + 0.5) * course.step_s);
      const [rates, took, bits] = this.charts;
      rates.show(times, [course.answers_per_s, course.drops_per_s]);
      took.show(times, [course.p50_ms, course.p95_ms]);
      bits.show(times, [course.kbps]);
      this.charts.forEach((chart) => chart.mark(this.at));
      this.whole.hidden = end - start > this.duration * 0.999;
      const part = this.whole.hidden ? "" : `${clockText(start)} to ${clockText(end)}. `;
      this.note.textContent = `${part}Click to go there, drag to look closer.${course.sampled ? " Of so long a time each point is a sample." : ""}`;
    } catch (error) {
      this.trouble(error);
    }
  }

  private closer(): void {
    const half = (this.range[1] - this.range[0]) / ZOOM / 2;
    void this.showCourse(this.at - half, this.at + half);
  }

  private async step(by: 1 | -1): Promise<void> {
    this.pause();
    try {
      const at = await this.blocks.step(this.at, by);
      if (at !== null) this.seek(at);
    } catch (error) {
      this.trouble(error);
    }
  }

  private toggle(): void {
    if (this.timer) {
      this.pause();
      return;
    }
    if (this.at >= this.duration) this.at = 0;
    this.playing.textContent = "Pause";
    let before = performance.now();
    this.timer = window.setInterval(() => {
      const now = performance.now();
      this.seek(this.at + (now - before) / 1000);
      before = now;
      if (this.at >= this.duration) this.pause();
    }, TICK_MS);
  }

  /** A step of the slider by keyboard is a hundredth of its way, too much for long recordings: arrows go by seconds. */
  private onKey(event: KeyboardEvent): void {
    const step = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -10, PageUp: 10 }[event.key];
    if (!step) return;
    event.preventDefault();
    this.seek(this.at + step);
  }

  private trouble(error: unknown): void {
    if (!this.leaving.signal.aborted) this.tell(errorLine(error));
  }
}
