/** What a recording shows at one moment: picture, results, stages, and what became of the newest frame. */
import { bytesText, element, short } from "../page/dom";
import { PLACE } from "../page/strip";
import { STAGES } from "../wire/stages";
import type { Frame, Moment } from "./frame_blocks";
import { ageText } from "./live";
import { percent } from "./parts";

const LABELS_SHOWN = 3;
const FRESH_S = 1;

export class MomentView {
  readonly root = element("div", { class: "moment" });
  private readonly image = element("img", { alt: "Thumbnail of the frame", hidden: "" });
  private readonly noPicture = element("p", { class: "note" }, "No thumbnail was recorded here.");
  private readonly state = element("p", { class: "state" });
  private readonly results = element("ul", { class: "results", "aria-label": "Results" });
  private readonly facts = element("dl", { class: "figures" });
  private readonly bar = element("div", { class: "stages", role: "img", "aria-label": "No stages" });
  private readonly legend = element("ul", { class: "legend", "aria-label": "Stages" });
  private address = "";
  private shown: Frame | null | undefined;

  /** A server's own recording knows when a frame came in, not when it was captured. */
  constructor(private readonly byServer: boolean) {
    this.root.append(
      element("div", { class: "picture" }, this.image, this.noPicture),
      element("div", {}, this.state, this.results, this.facts, this.bar, this.legend),
    );
  }

  show({ answer, last }: Moment, at: number): void {
    this.state.replaceChildren(...stateParts(answer, last, at));
    if (answer === this.shown) return;
    this.shown = answer;
    this.results.replaceChildren(...(answer?.tasks ?? []).map(resultRow));
    this.facts.replaceChildren(...(answer ? factsOf(answer, this.byServer).map(([title, value]) => element("div", {}, element("dt", {}, title), element("dd", {}, value))) : []));
    this.showStages(answer?.stages_ms ?? {});
  }

  showPicture(picture: Blob | null): void {
    if (this.address) URL.revokeObjectURL(this.address);
    this.address = picture ? URL.createObjectURL(picture) : "";
    this.image.hidden = !picture;
    this.noPicture.hidden = Boolean(picture);
    if (picture) this.image.src = this.address;
  }

  close(): void {
    this.showPicture(null);
  }

  private showStages(stages: Record<string, number>): void {
    const known = STAGES.filter((stage) => stages[stage]);
    const sum = known.reduce((total, stage) => total + stages[stage]!, 0);
    this.bar.hidden = !known.length;
    this.bar.setAttribute("aria-label", known.length ? `The stages take ${sum.toFixed(1)} ms` : "No stages");
    this.bar.replaceChildren(
      ...known.map((stage) => element("span", { class: PLACE[stage], "data-stage": stage, style: `flex-grow: ${stages[stage]!.toFixed(3)}`, title: `${stage}: ${stages[stage]!.toFixed(1)} ms` })),
    );
    this.legend.replaceChildren(
      ...known.map((stage) => element("li", {}, element("span", { class: `swatch ${PLACE[stage]}`, "data-stage": stage }), stage.replace("_", " "), element("span", { class: "value" }, `${stages[stage]!.toFixed(1)} ms`))),
    );
  }
}

function stateParts(answer: Frame | null, last: Frame | null, at: number): (Node | string)[] {
  if (!last) return ["No frame here."];
  const parts: (Node | string)[] = [];
  if (answer) {
    const age = Math.max(0, at - answer.at_s);
    parts.push(element("b", {}, `Frame ${answer.frame}, ${answer.state}`), age > FRESH_S ? element("span", { class: "late" }, ` ${ageText(age)}`) : "");
  } else parts.push(element("b", {}, "No answer in the last 10 s"));
  if (last !== answer) parts.push(` · newest: frame ${last.frame}, ${last.state.replace("_", " ")}${last.detail ? `, ${last.detail}` : ""}`);
  return parts;
}

function resultRow({ task, labels, error }: NonNullable<Frame["tasks"]>[number]): HTMLElement {
  const rows = labels.slice(0, LABELS_SHOWN).map((label, place) =>
    element("li", place ? { class: "further" } : {}, element("span", { class: "name" }, label.name), element("span", { class: "score" }, percent(label.score)),
      element("span", { class: "bar", style: `transform: scaleX(${label.score.toFixed(3)})` })),
  );
  return element("li", { "data-task": task }, element("span", { class: "task" }, task), error ? element("p", { class: "note" }, error) : null, element("ol", {}, ...rows));
}

function factsOf(frame: Frame, byServer: boolean): [string, string][] {
  return [
    ["a frame", frame.payload_bytes ? bytesText(frame.payload_bytes) : "–"],
    [byServer ? "ms on the server" : "ms to result", frame.total_ms ? short(frame.total_ms) : "–"],
    ["layers", frame.layers ? `${frame.decoded_layers ?? 0} of ${frame.layers}` : "–"],
    ["in its batch", frame.batch ? String(frame.batch) : "–"],
  ];
}
