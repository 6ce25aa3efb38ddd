/** The strip of figures, the stages as one stacked bar, and the drops by cause. */
import type { FrameAccount } from "../wire/account";
import { STAGES, type Stage, type StagesMs } from "../wire/stages";
import { bytesText, byId, element, short } from "./dom";
import type { Figures } from "./figures";

/** Three places that stages belong to; each has a hue, its stages have shades. */
export const PLACE: Record<Stage, "edge" | "network" | "server"> = {
  capture: "edge", preprocess: "edge", analysis: "edge", entropy_encode: "edge", send_wait: "edge", uplink: "network",
  entropy_decode: "server", queue: "server", synthesis: "server", tail: "server", heads: "server", downlink: "network",
};

const CAUSE_WORDS: Record<string, string> = {
  superseded: "a newer frame took its place", too_old: "too old before it was sent", encode_failed: "could not be encoded",
  send_failed: "the network did not take it", lost: "no answer came", shed: "the server was too busy",
  deadline: "too late for the server", incomplete: "too much of it was lost on the way", undecodable: "could not be decoded", engine_failed: "the server's engine failed",
  disconnected: "the connection ended", stopped: "stopped",
};

export class Strip {
  private readonly bar = byId("stages-bar");
  private readonly legend = byId("stages-legend");
  private readonly segments = new Map<string, HTMLElement>();
  private readonly values = new Map<string, HTMLElement>();

  constructor() {
    for (const stage of STAGES) {
      const segment = element("span", { class: PLACE[stage], "data-stage": stage });
      const value = element("span", { class: "value" });
      this.bar.append(segment);
      this.legend.append(element("li", {}, element("span", { class: `swatch ${PLACE[stage]}`, "data-stage": stage }), stage.replace("_", " "), value));
      this.segments.set(stage, segment);
      this.values.set(stage, value);
    }
  }

  /** `rate`: what rate control has chosen, in words. */
  show(figures: Figures, account: FrameAccount | null, rate: string): void {
    byId("figure-fps").textContent = short(figures.fps);
    byId("figure-kbps").textContent = Math.round(figures.kbps).toString();
    byId("figure-bytes").textContent = figures.payloadBytes ? bytesText(figures.payloadBytes) : "–";
    byId("figure-ms").textContent = figures.captureToResultMs === null ? "–" : Math.round(figures.captureToResultMs).toString();
    if (byId("rate-text").textContent !== rate) byId("rate-text").textContent = rate;
    this.showStages(figures.stages);
    this.showDrops(account);
  }

  private showStages(stages: StagesMs | null): void {
    const sum = stages ? Object.values(stages).reduce((total, ms) => total + ms, 0) : 0;
    for (const stage of STAGES) {
      const ms = stages?.[stage] ?? 0;
      const segment = this.segments.get(stage)!;
      segment.style.flexGrow = String(ms);
      segment.title = `${stage}: ${ms.toFixed(1)} ms`;
      this.values.get(stage)!.textContent = stages ? `${ms.toFixed(1)} ms` : "–";
    }
    this.bar.setAttribute("aria-label", stages ? `Capture to result takes ${Math.round(sum)} ms on average` : "No answers yet");
  }

  private showDrops(account: FrameAccount | null): void {
    const captured = account?.captured ?? 0;
    const dropped = account?.droppedTotal ?? 0;
    byId("figure-drops").textContent = captured ? `${Math.round((100 * dropped) / captured)} %` : "–";
    const rows = Object.entries(account?.dropped ?? {}).sort(([, a], [, b]) => b - a);
    byId("counts").textContent = account
      ? `${captured} captured = ${account.answered} answered + ${dropped} dropped + ${account.inFlight.size} under way`
      : "";
    byId("drops").replaceChildren(
      ...rows.map(([cause, count]) => element("li", {}, element("b", {}, String(count)), ` ${cause.replace("_", " ")}: ${CAUSE_WORDS[cause] ?? ""}`)),
    );
  }
}
