/** What is said of errors and ends, and of this browser to the server. */
import { FrankenError } from "../errors";
import type { Disconnected } from "../wire/events";

/** The server's line may be of any length. */
const DETAIL_CHARS_MAX = 300;
/** What the reasons of a Goodbye mean (docs/protocol.md). */
const REASONS: Record<string, string> = {
  done: "The server has ended the session",
  error: "Something went wrong on the server",
  protocol: "This page and the server do not understand each other",
  limit: "A limit was exceeded",
  full: "The server has no room for another session",
  draining: "The server is stopping",
  idle: "Nothing was heard for too long",
};

export function words(error: unknown): string {
  if (error instanceof FrankenError) return error.message;
  return error instanceof Error ? `${error.name}: ${error.message}` : String(error);
}

/** Why the server ended a session. */
export function endText(reason: string, detail: string): string {
  const why = REASONS[reason] ?? `The server ended the session (${reason.slice(0, 40)})`;
  const said = detail ? `${why}: ${detail.slice(0, DETAIL_CHARS_MAX).replace(/\.$/, "")}.` : `${why}.`;
  return reason === "protocol" ? `${said} If it happens again, load the page anew.` : said;
}

/** Why there is no connection, while another one is tried: what the server said, if it did. */
export function troubleText(goodbye: Disconnected["goodbye"], host: string, online: boolean): string {
  if (goodbye) return `${endText(goodbye.reason, goodbye.detail)} Trying again …`;
  return online ? `No answer from ${host}. Trying again …` : "No network. Waiting for it …";
}

export function browserName(): string {
  return /(Firefox|Edg|OPR|Chrome|Version)\/[\d.]+/.exec(navigator.userAgent)?.[0].replace("Version", "Safari") ?? "browser";
}
