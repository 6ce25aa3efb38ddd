import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { choose, earlierFallback, rememberFallback, routeText } from "../src/transport/choice";
import { NoWay, OpenFailed, Turned, type Connection, type Hooks, type Route } from "../src/transport/connection";
import { EdgeTransport, FALLBACK_S } from "../src/transport/edge";
import type { EdgeEvent } from "../src/wire/events";
import { channelOf, pack, type Message } from "../src/wire/messages";
import type { Outgoing } from "../src/wire/outgoing";
import { EdgeSession } from "../src/wire/session";
import { welcome } from "./answers";

/** A route that fails as told, or connects to a server that welcomes at once. */
class FakeRoute implements Route {
  readonly partBytes = 0;
  opened = 0;
  trouble: Error | null = null;
  hooks: Hooks | null = null;
  sent: Message[] = [];
  ready = true;

  constructor(readonly name: "webrtc" | "websocket") {}

  async open(hooks: Hooks): Promise<Connection> {
    this.opened++;
    if (this.trouble) throw this.trouble;
    this.hooks = hooks;
    const route = this;
    return {
      get ready() {
        return route.ready;
      },
      send: ({ message }: Outgoing) => {
        route.sent.push(message);
        if (message.type !== "Hello") return;
        const answer = welcome({ resumed: message.resume_token.length > 0 });
        queueMicrotask(() => hooks.received(channelOf(answer), pack(answer)));
      },
      close: () => {
        route.hooks = null;
      },
    };
  }

  /** The token of the last Hello. */
  get resumed(): boolean {
    const hello = this.sent.findLast((message) => message.type === "Hello");
    return hello?.type === "Hello" && hello.resume_token.length > 0;
  }
}

let rtc: FakeRoute;
let socket: FakeRoute;
let events: EdgeEvent[];
let routes: string[];

function start(earlier: { why: string; agoS: number } | null = null): EdgeTransport {
  const transport = new EdgeTransport(new EdgeSession({ codecId: "c" }), (event) => events.push(event), [rtc, socket], earlier);
  transport.onRoute = (route, why) => routes.push(routeText(route, why));
  return transport;
}

async function pass(ms: number): Promise<void> {
  await vi.advanceTimersByTimeAsync(ms);
}

beforeEach(() => {
  vi.useFakeTimers();
  const kept = new Map<string, string>();
  vi.stubGlobal("sessionStorage", {
    getItem: (key: string) => kept.get(key) ?? null,
    setItem: (key: string, value: string) => kept.set(key, value),
    removeItem: (key: string) => kept.delete(key),
  });
  rtc = new FakeRoute("webrtc");
  socket = new FakeRoute("websocket");
  events = [];
  routes = [];
});

afterEach(() => {
  vi.useRealTimers();
  vi.unstubAllGlobals();
});

test("the first route is taken where it finds a way", async () => {
  const transport = start();
  await pass(10);
  expect([transport.route, transport.session.state, socket.opened]).toEqual(["webrtc", "open", 0]);
  expect(routes).toEqual(["WebRTC"]);
});

test("where WebRTC finds no way, WebSocket is used at once, and it is said why", async () => {
  rtc.trouble = new NoWay("no UDP path to the server within 3 s");
  const transport = start();
  await pass(10);
  expect([transport.route, transport.session.state]).toEqual(["websocket", "open"]);
  expect(routes).toEqual(["WebSocket: no UDP path to the server within 3 s"]);
  expect(events.some((event) => event.type === "Disconnected")).toBe(false);
});

test("a session that loses WebRTC goes on over WebSocket, with its token", async () => {
  const transport = start();
  await pass(10);
  rtc.trouble = new NoWay("blocked");
  rtc.hooks!.lost("the server has been silent for 6 s");
  await pass(200);
  expect([transport.route, transport.session.state, socket.resumed]).toEqual(["websocket", "open", true]);
});

test("after five minutes the next reconnection tries WebRTC again, and the session goes on there", async () => {
  rtc.trouble = new NoWay("blocked");
  const transport = start();
  await pass(10);
  rtc.trouble = null;
  socket.hooks!.lost("the connection ended (1006)");
  await pass(200);
  expect(transport.route).toBe("websocket");
  await pass(FALLBACK_S * 1000);
  socket.hooks?.lost("the connection ended (1006)");
  await pass(2000);
  expect([transport.route, transport.why, rtc.resumed]).toEqual(["webrtc", "", true]);
});

test("a new network is a reason to try WebRTC at once", async () => {
  rtc.trouble = new NoWay("blocked");
  const transport = start();
  await pass(10);
  rtc.trouble = null;
  socket.trouble = new OpenFailed("gone");
  socket.hooks!.lost("the connection ended (1006)");
  await pass(10);
  transport.retryNow(true);
  await pass(10);
  expect([transport.route, transport.session.state]).toEqual(["webrtc", "open"]);
});

test("a server that does not answer is asked again, ever less often, over the same route", async () => {
  rtc.trouble = new OpenFailed("the server does not answer");
  start();
  await pass(10_000);
  expect(rtc.opened).toBeGreaterThan(8);
  expect(rtc.opened).toBeLessThan(20);
  expect(socket.opened).toBe(0);
  expect(events.filter((event) => event.type === "Disconnected").length).toBe(rtc.opened);
  rtc.trouble = null;
  await pass(2_000);
  expect(events.some((event) => event.type === "Connected")).toBe(true);
});

test("a server that does not want the page is not asked again", async () => {
  rtc.trouble = new Turned("missing or wrong token");
  const transport = start();
  await pass(10_000);
  expect([rtc.opened, transport.session.state]).toEqual([1, "closed"]);
  expect(events).toContainEqual({ type: "Closed", reason: "unauthorised", detail: "missing or wrong token", clean: false });
});

test("what the page ends itself says nothing more, connected or not", async () => {
  const connected = start();
  await pass(10);
  connected.close();
  rtc.trouble = new OpenFailed("the server does not answer");
  const waiting = start();
  await pass(10);
  waiting.close();
  await pass(2_000);
  expect([connected.session.state, waiting.session.state]).toEqual(["closed", "closed"]);
  expect(events.filter((event) => event.type === "Closed")).toEqual([]);
});

test("a connection that takes nothing keeps the frames in the session, where a newer one takes their place", async () => {
  const transport = start();
  await pass(10);
  rtc.ready = false;
  const before = rtc.sent.length;
  for (const frame of [0, 1, 2]) {
    transport.call((session, now) => {
      session.capture(frame, now);
      session.offer(frame, new Uint8Array(10), { capturedAt: now, captureDone: now, preprocessDone: now, analysisDone: now, encodeDone: now }, now);
    });
  }
  expect(rtc.sent.length).toBe(before);
  rtc.ready = true;
  await pass(50);
  expect(rtc.sent.filter((message) => message.type === "Frame").map((message) => message.type === "Frame" && message.frame)).toEqual([2]);
});

test("what an earlier connection still says means nothing", async () => {
  const transport = start();
  await pass(10);
  const earlier = rtc.hooks!;
  earlier.lost("gone");
  await pass(200);
  earlier.lost("gone again");
  earlier.received("control", Uint8Array.of(1, 2, 3));
  expect([transport.session.state, rtc.opened]).toEqual(["open", 2]);
});

test("a fallback that was before a reload is remembered", async () => {
  rememberFallback("no UDP path");
  const earlier = earlierFallback();
  expect(earlier?.why).toBe("no UDP path");
  const transport = start(earlier);
  await pass(10);
  expect([transport.route, rtc.opened]).toEqual(["websocket", 0]);
  rememberFallback("");
  expect(earlierFallback()).toBe(null);
});

test.each([
  ["", "camera.local", ["webrtc", "websocket"]],
  ["", "192.168.1.4", ["webrtc", "websocket"]],
  ["", "127.0.0.1", ["websocket"]],
  ["", "localhost", ["websocket"]],
  ["?transport=auto", "127.0.0.1", ["webrtc", "websocket"]],
  ["?transport=websocket", "camera.local", ["websocket"]],
  ["?source=camera&transport=webrtc", "localhost", ["webrtc"]],
  ["?transport=pigeon", "camera.local", ["webrtc", "websocket"]],
])("%s on %s takes %j", (search, host, names) => {
  expect(choose(search, host).names).toEqual(names);
});
