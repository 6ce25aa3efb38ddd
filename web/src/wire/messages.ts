/** The messages of the wire, docs/protocol.md "Messages": fields by name here, by place in the msgpack array there. */
import { decode, encode } from "@msgpack/msgpack";
import { RemoteProtocolError } from "../errors";
import { MESSAGE_BYTES_MAX } from "../limits";

export const PROTOCOL_VERSION = 1;

export type Channel = "control" | "frames" | "results";

export interface TaskInfo {
  name: string;
  backbone: string;
  classes: number;
  version: number;
  title: string;
}

export interface Label {
  index: number;
  name: string;
  score: number;
}

export interface TaskResult {
  task: string;
  labels: Label[];
  error: string;
}

export type Hello = {
  type: "Hello"; protocol: number; codec_id: string; client: string; tasks: string[]; backbone: string; top_k: number;
  lossless: boolean; resume_token: Uint8Array;
};
export type Welcome = {
  type: "Welcome"; session: string; resume_token: Uint8Array; resumed: boolean; codec_id: string; bundle_id: string;
  backbone: string; tasks: TaskInfo[]; sent_frames_max: number; credit_valid_ms: number; payload_bytes_max: number;
  reference_window: number; reference_epoch: number; server: string; parity_parts_max?: number;
};
export type BundleRequest = { type: "BundleRequest"; codec_id: string; offset: number };
export type BundlePart = { type: "BundlePart"; codec_id: string; offset: number; total: number; part: Uint8Array };
export type Frame = {
  type: "Frame"; frame: number; age_at_send_us: number; budget_us: number; bitstream: Uint8Array; sent: number;
};
export type FramePart = {
  type: "FramePart"; frame: number; part: number; parts: number; age_at_send_us: number; budget_us: number;
  bytes: Uint8Array; sent: number; parity?: number;
};
export type JpegFrame = {
  type: "JpegFrame"; frame: number; age_at_send_us: number; budget_us: number; image: Uint8Array; sent: number;
};
export type Result = {
  type: "Result"; frame: number; tasks: TaskResult[]; received_at_us: number; sent_at_us: number; stages_us: number[];
  sent_frames_max: number; credit_valid_ms: number; decoded_layers: number; layers: number; batch: number;
  settled?: number; parts_received?: number;
};
export type Dropped = {
  type: "Dropped"; frame: number; cause: string; detail: string; decoded_layers: number; sent_frames_max: number;
  credit_valid_ms: number; settled?: number; parts_received?: number;
};
export type Credit = { type: "Credit"; sent_frames_max: number; valid_for_ms: number };
export type SetTasks = { type: "SetTasks"; tasks: string[]; top_k: number };
export type TasksChanged = { type: "TasksChanged"; tasks: TaskInfo[]; error: string };
export type Ping = { type: "Ping"; ping: number; sent_at_us: number; sent_frames: number };
export type Pong = {
  type: "Pong"; ping: number; sent_at_us: number; received_at_us: number; replied_at_us: number;
};
export type Goodbye = {
  type: "Goodbye"; reason: string; detail: string; resume_token: Uint8Array; retry_after_s: number; peer: string;
  sent_frames: number;
};

export type Message =
  | Hello | Welcome | BundleRequest | BundlePart | Frame | FramePart | JpegFrame | Result | Dropped | Credit | SetTasks
  | TasksChanged | Ping | Pong | Goodbye;

type Kind = "int" | "float" | "bool" | "text" | "bytes" | "texts" | "ints" | "tasks" | "results";
/** Name, kind, default. Fields without a default must be there. */
type Field = [name: string, kind: Kind, missing?: unknown];
interface Shape {
  tag: number;
  channel: Channel;
  fields: Field[];
}

const NOTHING = new Uint8Array(0);

const SHAPES: Record<Message["type"], Shape> = {
  Hello: { tag: 1, channel: "control", fields: [
    ["protocol", "int"], ["codec_id", "text"], ["client", "text", ""], ["tasks", "texts", []], ["backbone", "text", ""],
    ["top_k", "int", 1], ["lossless", "bool", false], ["resume_token", "bytes", NOTHING],
  ] },
  Welcome: { tag: 2, channel: "control", fields: [
    ["session", "text"], ["resume_token", "bytes"], ["resumed", "bool"], ["codec_id", "text"], ["bundle_id", "text"],
    ["backbone", "text"], ["tasks", "tasks"], ["sent_frames_max", "int"], ["credit_valid_ms", "int"],
    ["payload_bytes_max", "int"], ["reference_window", "int"], ["reference_epoch", "int"], ["server", "text", ""],
    ["parity_parts_max", "int", 0],
  ] },
  BundleRequest: { tag: 3, channel: "control", fields: [["codec_id", "text"], ["offset", "int", 0]] },
  BundlePart: { tag: 4, channel: "control", fields: [
    ["codec_id", "text"], ["offset", "int"], ["total", "int"], ["part", "bytes"],
  ] },
  Frame: { tag: 5, channel: "frames", fields: [
    ["frame", "int"], ["age_at_send_us", "int"], ["budget_us", "int"], ["bitstream", "bytes"], ["sent", "int", 0],
  ] },
  FramePart: { tag: 6, channel: "frames", fields: [
    ["frame", "int"], ["part", "int"], ["parts", "int"], ["age_at_send_us", "int"], ["budget_us", "int"],
    ["bytes", "bytes"], ["sent", "int", 0], ["parity", "int", 0],
  ] },
  JpegFrame: { tag: 7, channel: "frames", fields: [
    ["frame", "int"], ["age_at_send_us", "int"], ["budget_us", "int"], ["image", "bytes"], ["sent", "int", 0],
  ] },
  Result: { tag: 8, channel: "results", fields: [
    ["frame", "int"], ["tasks", "results"], ["received_at_us", "int"], ["sent_at_us", "int"], ["stages_us", "ints"],
    ["sent_frames_max", "int"], ["credit_valid_ms", "int"], ["decoded_layers", "int", 0], ["layers", "int", 0],
    ["batch", "int", 0], ["settled", "int", 0], ["parts_received", "int", 0],
  ] },
  Dropped: { tag: 9, channel: "results", fields: [
    ["frame", "int"], ["cause", "text"], ["detail", "text", ""], ["decoded_layers", "int", 0],
    ["sent_frames_max", "int", 0], ["credit_valid_ms", "int", 0], ["settled", "int", 0], ["parts_received", "int", 0],
  ] },
  Credit: { tag: 10, channel: "control", fields: [["sent_frames_max", "int"], ["valid_for_ms", "int"]] },
  SetTasks: { tag: 11, channel: "control", fields: [["tasks", "texts"], ["top_k", "int", 1]] },
  TasksChanged: { tag: 12, channel: "control", fields: [["tasks", "tasks"], ["error", "text", ""]] },
  Ping: { tag: 13, channel: "control", fields: [["ping", "int"], ["sent_at_us", "int"], ["sent_frames", "int", 0]] },
  Pong: { tag: 14, channel: "control", fields: [
    ["ping", "int"], ["sent_at_us", "int"], ["received_at_us", "int"], ["replied_at_us", "int"],
  ] },
  Goodbye: { tag: 15, channel: "control", fields: [
    ["reason", "text"], ["detail", "text", ""], ["resume_token", "bytes", NOTHING], ["retry_after_s", "float", 0],
    ["peer", "text", ""], ["sent_frames", "int", 0],
  ] },
};

const TYPE_OF_TAG = new Map(Object.entries(SHAPES).map(([type, shape]) => [shape.tag, type as Message["type"]]));

export function channelOf(message: Message): Channel {
  return SHAPES[message.type].channel;
}

/** One message as msgpack, with `channelByte` (0 to 2) in front where the transport wants one. */
export function pack(message: Message, channelByte?: number): Uint8Array {
  const { tag, fields } = SHAPES[message.type];
  const values = message as unknown as Record<string, unknown>;
  const count = fields.length + 1;
  const pieces: Uint8Array[] = [];
  if (channelByte !== undefined) pieces.push(Uint8Array.of(channelByte));
  pieces.push(count < 16 ? Uint8Array.of(0x90 | count) : Uint8Array.of(0xdc, count >> 8, count & 0xff), encode(tag));
  for (const [name, kind, missing] of fields) {
    pieces.push(packedField(kind, values[name] ?? missing));
  }
  return joined(pieces);
}

/** Reads one message. Throws RemoteProtocolError for anything else. Fields beyond those known are left out. */
export function unpack(data: Uint8Array): Message {
  if (data.length > MESSAGE_BYTES_MAX) {
    throw new RemoteProtocolError(`message is ${data.length} bytes, limit ${MESSAGE_BYTES_MAX}`);
  }
  let array: unknown;
  try {
    array = decode(data);
  } catch {
    throw new RemoteProtocolError(`${data.length} bytes are no FrankenStream message`);
  }
  const type = Array.isArray(array) ? TYPE_OF_TAG.get(array[0] as number) : undefined;
  if (!type) throw new RemoteProtocolError(`${data.length} bytes are no FrankenStream message`);
  const message: Record<string, unknown> = { type };
  SHAPES[type].fields.forEach(([name, kind, missing], index) => {
    const value = (array as unknown[])[index + 1];
    message[name] = value === undefined && missing !== undefined ? missing : unpacked(kind, value, `${type}.${name}`);
  });
  return message as unknown as Message;
}

function packedField(kind: Kind, value: unknown): Uint8Array {
  if (kind === "float") return float64(value as number);
  if (kind === "int" && !Number.isSafeInteger(value)) return int64(value as number); // encode() would make it a float
  return encode(packed(kind, value));
}

function packed(kind: Kind, value: unknown): unknown {
  switch (kind) {
    case "tasks": return (value as TaskInfo[]).map((task) => [task.name, task.backbone, task.classes, task.version, task.title]);
    case "results": return (value as TaskResult[]).map((task) => [
      task.task, task.labels.map((label) => [label.index, label.name, label.score]), task.error,
    ]);
    default: return value;
  }
}

function unpacked(kind: Kind, value: unknown, where: string): unknown {
  switch (kind) {
    case "int": return checked(isInt(value), value, where);
    case "float": return checked(typeof value === "number", value, where);
    case "bool": return checked(typeof value === "boolean", value, where);
    case "text": return checked(typeof value === "string", value, where);
    case "bytes": return checked(value instanceof Uint8Array, value, where);
    case "texts": return list(value, where).map((one) => checked(typeof one === "string", one, where));
    case "ints": return list(value, where).map((one) => checked(isInt(one), one, where));
    case "tasks": return list(value, where).map((one) => taskInfo(list(one, where), where));
    case "results": return list(value, where).map((one) => taskResult(list(one, where), where));
  }
}

function taskInfo([name, backbone, classes, version = 1, title = ""]: unknown[], where: string): TaskInfo {
  return {
    name: unpacked("text", name, where) as string,
    backbone: unpacked("text", backbone, where) as string,
    classes: unpacked("int", classes, where) as number,
    version: unpacked("int", version, where) as number,
    title: unpacked("text", title, where) as string,
  };
}

function taskResult([task, labels, error = ""]: unknown[], where: string): TaskResult {
  return {
    task: unpacked("text", task, where) as string,
    labels: list(labels, where).map((one) => {
      const [index, name, score] = list(one, where);
      return {
        index: unpacked("int", index, where) as number,
        name: unpacked("text", name, where) as string,
        score: unpacked("float", score, where) as number,
      };
    }),
    error: unpacked("text", error, where) as string,
  };
}

function checked<T>(sound: boolean, value: T, where: string): T {
  if (!sound) throw new RemoteProtocolError(`${where} is ${String(value).slice(0, 40)}: that is not what it should be`);
  return value;
}

function list(value: unknown, where: string): unknown[] {
  checked(Array.isArray(value), value, where);
  return value as unknown[];
}

/** 2^53 itself is still a number of the wire. */
function isInt(value: unknown): boolean {
  return Number.isInteger(value) && Math.abs(value as number) <= 2 ** 53;
}

function int64(value: number): Uint8Array {
  const bytes = new Uint8Array(9);
  bytes[0] = value < 0 ? 0xd3 : 0xcf;
  new DataView(bytes.buffer).setBigInt64(1, BigInt(value));
  return bytes;
}

function float64(value: number): Uint8Array {
  const bytes = new Uint8Array(9);
  bytes[0] = 0xcb;
  new DataView(bytes.buffer).setFloat64(1, value);
  return bytes;
}

function joined(pieces: readonly Uint8Array[]): Uint8Array {
  const bytes = new Uint8Array(pieces.reduce((sum, piece) => sum + piece.length, 0));
  let at = 0;
  for (const piece of pieces) {
    bytes.set(piece, at);
    at += piece.length;
  }
  return bytes;
}
