/** Tokens: from a pairing link (`#pair=CODE`), from `#token=…`, or typed in; kept in this browser. */

const KEY = "frankenstream.token";
const ADMIN_KEY = "frankenstream.admin-token";

export function savedToken(): string {
  return localStorage.getItem(KEY) ?? "";
}

export function saveToken(token: string): void {
  localStorage.setItem(KEY, token.trim());
}

/** The operator's token is kept for this tab only. */
export function savedAdminToken(): string {
  return sessionStorage.getItem(ADMIN_KEY) ?? "";
}

export function saveAdminToken(token: string): void {
  sessionStorage.setItem(ADMIN_KEY, token.trim());
}

/** Takes a pairing code or a token out of the address, so that it stays in no history. Returns an error in words, or "". */
export async function takeFromAddress(): Promise<string> {
  const wish = new URLSearchParams(location.hash.slice(1));
  const code = wish.get("pair");
  const token = wish.get("token");
  if (code === null && token === null) return "";
  history.replaceState(null, "", location.pathname + location.search);
  if (token !== null) {
    saveToken(token);
    return "";
  }
  try {
    const response = await fetch("/api/v1/pair", {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ code }),
    });
    const answer = (await response.json()) as { token?: string; error?: string };
    if (answer.token) saveToken(answer.token);
    return answer.token ? "" : `Pairing did not work: ${answer.error ?? `HTTP ${response.status}`}`;
  } catch {
    return "Pairing did not work: the server cannot be reached.";
  }
}
