/** What happens now: tiles, charts, sessions with what they last recognised, costs, events. */
import { bytesText, element, short } from "../page/dom";
import { Chart } from "./charts";
import type { Percentiles, Recognised, ServerFigures, SessionRow } from "./figures";
import { percent, region, table, tile } from "./parts";

const EVENTS_SHOWN = 30;
/** An answer that is older is told with its age. */
const FRESH_S = 2;

export class LiveView {
  readonly root = element("div", {});
  private readonly tiles = element("dl", { class: "tiles" });
  private readonly sessions = element("ul", { class: "cards", "aria-label": "Sessions" });
  private readonly tasks = region("Tasks");
  private readonly engines = region("Engines");
  private readonly drops = element("p", { class: "note" }, "Nothing was dropped in the last seconds.");
  private readonly log = element("ul", { class: "plain", "aria-label": "Events" });
  private readonly rates: Chart;
  private readonly times: Chart;
  private readonly bits: Chart;

  constructor() {
    const holders = [0, 1, 2].map(() => element("div", { class: "chart" }));
    this.root.append(
      this.tiles, element("div", { class: "charts" }, ...holders),
      element("h2", {}, "Sessions"), this.sessions, element("h2", {}, "Drops by cause"), this.drops,
      element("h2", {}, "Tasks and what they cost"), this.tasks, element("h2", {}, "Engines"), this.engines,
      element("h2", {}, "Events"), this.log,
    );
    this.rates = new Chart(holders[0]!, "Frames a second", [
      { label: "received", colour: "--server" }, { label: "answered", colour: "--edge" }, { label: "dropped", colour: "--alert" },
    ]);
    this.times = new Chart(holders[1]!, "Time on the server, ms", [
      { label: "p50", colour: "--edge" }, { label: "p95", colour: "--network" },
    ]);
    this.bits = new Chart(holders[2]!, "Payload, kbit/s", [{ label: "all sessions", colour: "--server" }]);
  }

  draw(figures: ServerFigures): void {
    const { frames, process } = figures;
    this.tiles.replaceChildren(
      tile("sessions", `${figures.sessions_open}`), tile("answers a second", short(frames.answered_fps)),
      tile("ms on the server, p95", frames.answer_ms ? frames.answer_ms.p95.toFixed(1) : "–"),
      tile("kbit/s", Math.round(frames.payload_kbps).toString()),
      tile("a frame", frames.payload_bytes_mean ? bytesText(frames.payload_bytes_mean) : "–"),
      tile("processor", `${Math.round(process.cpu_percent)} %`), tile("memory", `${Math.round(process.rss_mb)} MB`),
      tile("bundle", bundleText(figures)),
    );
    this.rates.add(figures.at, [frames.received_fps, frames.answered_fps, frames.dropped_fps]);
    this.times.add(figures.at, [frames.answer_ms?.p50 ?? null, frames.answer_ms?.p95 ?? null]);
    this.bits.add(figures.at, [frames.payload_kbps]);
    this.drawTables(figures);
    const causes = Object.entries(frames.dropped).map(([cause, count]) => `${count} ${cause.replace("_", " ")}`);
    this.drops.textContent = causes.join(" · ") || "Nothing was dropped in the last seconds.";
  }

  addEvent(kind: string, data: Record<string, unknown>): void {
    const { number: _, at, kind: __, what, ...facts } = data;
    const time = new Date(Number(at) * 1000).toLocaleTimeString();
    const text = Object.entries(facts).map(([name, value]) => `${name} ${typeof value === "object" ? JSON.stringify(value) : String(value)}`);
    this.log.prepend(element("li", {}, element("b", {}, `${time} ${kind} ${String(what)}`), ` ${text.join(", ")}`));
    while (this.log.children.length > EVENTS_SHOWN) this.log.lastElementChild!.remove();
  }

  /** Events come again after a new start. */
  forgetEvents(): void {
    this.log.replaceChildren();
  }

  private drawTables(figures: ServerFigures): void {
    const none = element("li", { class: "note" }, "No session is open.");
    const more = figures.sessions_known - figures.sessions.length;
    const rest = element("li", { class: "note" }, `${more} more, less busy ones`);
    this.sessions.replaceChildren(...(figures.sessions.length ? figures.sessions.map(sessionCard) : [none]), ...(more > 0 ? [rest] : []));
    table(this.tasks, figures.tasks, "No task is served.", [
      ["Task", (row) => row.name], ["Backbone", (row) => row.backbone], ["Classes", (row) => row.classes.toString(), "number"],
      ["Version", (row) => row.version.toString(), "number"], ["Sessions", (row) => row.sessions.toString(), "number"],
      ["Answers/s", (row) => short(row.answers_per_s), "number"], ["ms a frame", (row) => row.ms_a_frame.toFixed(3), "number"],
      ["", (row) => row.error],
    ]);
    table(this.engines, figures.engines, "No engine runs.", [
      ["Backbone", (row) => row.backbone], ["Engine", (row) => `${row.backend}, ${row.device}`],
      ["Busy", (row) => `${Math.round(100 * row.busy)} %`, "number"], ["ms a frame", (row) => row.frame_ms.toFixed(1), "number"],
      ["of it heads", (row) => row.heads_ms.toFixed(2), "number"], ["Batch", (row) => row.batch_mean.toFixed(1), "number"],
      ["Waiting", (row) => row.waiting.toString(), "number"], ["Failures", (row) => row.failures.toString(), "number"],
    ]);
  }
}

/** Who it is, what was last seen there, and how it goes. */
function sessionCard(row: SessionRow): HTMLElement {
  const dropped = Object.values(row.dropped).reduce((sum, count) => sum + count, 0);
  const facts = [
    `${short(row.fps)} answers/s`, `${Math.round(row.payload_kbps)} kbit/s`, `${p50(row.answer_ms)} ms here`,
    row.one_way_ms === null ? "" : `${row.one_way_ms.toFixed(1)} ms away`, `answered ${row.answered} of ${row.received}`,
    dropped ? `${dropped} dropped` : "",
  ];
  return element(
    "li", { class: "card session" },
    element("p", { class: "who" }, element("b", {}, row.client || row.session.slice(0, 8)), element("span", { class: "note" }, `${row.transport}, ${row.state}`)),
    recognised(row), element("p", { class: "note" }, facts.filter(Boolean).join(" · ")),
  );
}

/** The label on top of each task, with its score and its age. */
function recognised(row: SessionRow): Node {
  const rows = row.recognised ?? [];
  if (!rows.length) return element("span", { class: "note" }, "nothing yet");
  const more = row.tasks.length - rows.length;
  return element(
    "ul", { class: "recognised" }, ...rows.map(recognisedRow), more > 0 ? element("li", { class: "note" }, `${more} more tasks`) : null,
  );
}

function recognisedRow({ task, label, score, age_s }: Recognised): HTMLElement {
  const old = age_s > FRESH_S;
  return element(
    "li", old ? { class: "old" } : {}, element("span", { class: "task" }, task), element("b", {}, label),
    element("span", { class: "score" }, percent(score)), element("span", { class: "age-text" }, old ? ageText(age_s) : "now"),
  );
}

export function ageText(seconds: number): string {
  if (seconds < 10) return `${seconds.toFixed(1)} s ago`;
  return seconds < 90 ? `${Math.round(seconds)} s ago` : `${Math.round(seconds / 60)} min ago`;
}

function p50(percentiles: Percentiles | null): string {
  return percentiles ? percentiles.p50.toFixed(1) : "–";
}

function bundleText(figures: ServerFigures): string {
  const id = figures.codec_id ?? figures.bundle_id ?? (typeof figures.bundle === "string" ? figures.bundle : "");
  return id ? id.slice(0, 8) : "–";
}
