/**
 * Which way to the server. WebRTC first: a lost packet costs it a part of one frame, where TCP holds up everything behind
 * it. WebSocket where WebRTC finds no way, and on this machine's own address: there nothing gets lost, and the server's
 * WebRTC costs it several times the CPU. `?transport=websocket|webrtc` pins one, `?transport=auto` tries both anywhere.
 */
import type { Route } from "./connection";
import { FALLBACK_S, type EarlierFallback } from "./edge";
import { WebRtcRoute } from "./webrtc";
import { WebSocketRoute } from "./websocket";

const KEY = "frankenstream.no-webrtc";
const LOOPBACK = /^(localhost|127(\.\d+){3}|\[::1\])$/;
const WISHES = ["auto", "webrtc", "websocket"];

export interface Choice {
  names: Route["name"][];
  /** Said to people where there is no choice left; "": automatic. */
  why: string;
}

export function choose(search: string, hostname: string): Choice {
  const wish = new URLSearchParams(search).get("transport") ?? "";
  const loopback = LOOPBACK.test(hostname);
  if (wish === "webrtc" || wish === "websocket") return { names: [wish], why: "chosen in the address" };
  if (loopback && wish !== "auto") return { names: ["websocket"], why: "on this machine nothing gets lost" };
  const unknown = wish && !WISHES.includes(wish) ? `transport=${wish.slice(0, 20)} is none of ${WISHES.join(", ")}` : "";
  return { names: ["webrtc", "websocket"], why: unknown };
}

export function routesOf(choice: Choice, token: string): Route[] {
  return choice.names.map((name) => (name === "webrtc" ? new WebRtcRoute(token, choice.names.length === 1) : new WebSocketRoute(token)));
}

/** A network without UDP will not have it after a reload either: the wait for it is spared for five minutes. */
export function rememberFallback(why: string): void {
  if (why) sessionStorage.setItem(KEY, JSON.stringify({ why, at: Date.now() }));
  else sessionStorage.removeItem(KEY);
}

export function earlierFallback(): EarlierFallback | null {
  try {
    const { why, at } = JSON.parse(sessionStorage.getItem(KEY) ?? "") as { why: string; at: number };
    const agoS = (Date.now() - at) / 1000;
    return why && agoS >= 0 && agoS < FALLBACK_S ? { why, agoS } : null;
  } catch {
    return null;
  }
}

export function routeText(route: Route["name"], why: string): string {
  return `${route === "webrtc" ? "WebRTC" : "WebSocket"}${why ? `: ${why}` : ""}`;
}
