/** Server-sent events by fetch: unlike EventSource it can send a token. */

export interface ServerEvent {
  kind: string;
  data: Record<string, unknown>;
}

/** Calls `onEvent` until the stream ends. Throws TypeError where there is no server; returns the status if it is not 200. */
export async function listen(
  url: string, token: string, signal: AbortSignal, onEvent: (event: ServerEvent) => void,
): Promise<number> {
  const headers: Record<string, string> = token ? { Authorization: `Bearer ${token}` } : {};
  const response = await fetch(url, { headers, signal, cache: "no-store" });
  if (!response.ok || !response.body) return response.status;
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return 200;
    text += value;
    const blocks = text.split("\n\n");
    text = blocks.pop()!;
    for (const block of blocks) {
      const event = parse(block);
      if (event) onEvent(event);
    }
  }
}

export function parse(block: string): ServerEvent | null {
  let kind = "message";
  let data = "";
  for (const line of block.split("\n")) {
    if (line.startsWith("event: ")) kind = line.slice(7);
    if (line.startsWith("data: ")) data += line.slice(6);
  }
  return data ? { kind, data: JSON.parse(data) as Record<string, unknown> } : null;
}
