/** Compares this browser's bitstreams with golden vectors. */
import { encodeGolden, type GoldenFile } from "../codec/golden";
import { byId } from "./dom";

const files = byId<HTMLInputElement>("files");
files.addEventListener("change", async () => {
  const lines = [];
  for (const file of files.files ?? []) {
    const results = encodeGolden(JSON.parse(await file.text()) as GoldenFile);
    const wrong = results.filter(([, expected, actual]) => expected !== actual);
    lines.push(`${file.name}: ${results.length - wrong.length} of ${results.length} equal`);
    for (const [what] of wrong) lines.push(`${file.name}: ${what} differs`);
  }
  byId("outcome").textContent = lines.join("; ");
});
