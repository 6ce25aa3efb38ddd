/** What is said to people who teach. */
import type { Lesson } from "./client";

/** As the server wants them (analytics_server/few_shot.py). */
export const VIEWS_MIN = 8;
const VIEWS_GOOD = 15;
export const VIEWS_MAX = 60;

export const HOW = "Show a thing in the white square and hold the button for some seconds. Turn it meanwhile.";

export function holdingText(views: number): string {
  if (views < VIEWS_MIN) return `Looking … ${counted(views)}`;
  return views < VIEWS_GOOD ? `${counted(views)}, go on` : `${counted(views)}, let go`;
}

export function tooFewText(views: number): string {
  const seen = views ? `Only ${counted(views)} came` : "Nothing was seen yet";
  return `${seen}, ${VIEWS_MIN} are needed. Hold it for two seconds or longer.`;
}

/** After learning: what it knows now, and what to show next. */
export function learntText(lesson: Lesson): string {
  const labels = Object.entries(lesson.labels);
  const took = `Learnt in ${lesson.taught_s < 1 ? "a second" : `${lesson.taught_s.toFixed(1)} s`}.`;
  if (labels.length === 1) {
    const [only] = labels[0]!;
    return (
      `${took} So far it knows “${only}” alone, by its looks. Now show what it is not: another thing, or the same place ` +
      "without it. Then it can tell them apart."
    );
  }
  const pair = lesson.confusions[0];
  if (pair) return `${took} “${pair[0]}” and “${pair[1]}” still look alike to it: show both once more, from other sides.`;
  const few = labels.filter(([, views]) => views < VIEWS_GOOD).map(([label]) => `“${label}”`);
  if (few.length) return `${took} It has few views of ${few.slice(0, 3).join(", ")}: show it once more in other light.`;
  return `${took} It tells ${labels.length} things apart: ${labels.map(([label]) => label).join(", ").slice(0, 120)}.`;
}

export function counted(views: number): string {
  return views === 1 ? "1 view" : `${views} views`;
}
