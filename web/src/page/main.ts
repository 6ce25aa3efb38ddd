/** Entry: tabs, and the operator's page only when it is looked at. */
import "../style.css";
import { byId } from "./dom";
import { Watch } from "./watch";

const TABS = ["watch", "operator"] as const;
let operator: { show(): void; hide(): void } | null = null;

async function showTab(): Promise<void> {
  const wanted = location.hash === "#operator" ? "operator" : "watch";
  for (const tab of TABS) {
    byId(tab).hidden = tab !== wanted;
    const link = byId(`tab-${tab}`);
    if (tab === wanted) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (wanted === "operator") {
    const { Operator } = await import("../operator/operator");
    operator ??= new Operator(byId("operator"));
    operator.show();
  } else {
    operator?.hide();
  }
}

const isOperator = location.hash === "#operator";
window.addEventListener("hashchange", () => void showTab());
const watch = new Watch();
let started = false;
function startWatch(): void {
  if (started) return;
  started = true;
  void watch.start();
}
void showTab();
if (isOperator) byId("tab-watch").addEventListener("click", startWatch, { once: true });
else startWatch();
