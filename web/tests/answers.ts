/** What a server says, for tests. */
import { channelOf, pack, type Message, type Welcome } from "../src/wire/messages";
import type { EdgeSession } from "../src/wire/session";

export const MARKS = { capturedAt: 0, captureDone: 0.001, preprocessDone: 0.002, analysisDone: 0.01, encodeDone: 0.012 };

export function give(session: EdgeSession, message: Message, now: number): void {
  session.receiveOn(channelOf(message), pack(message), now);
}

export function welcome(more: Partial<Welcome> = {}): Welcome {
  return {
    type: "Welcome", session: "s1", resume_token: new Uint8Array(16), resumed: false, codec_id: "c", bundle_id: "b",
    backbone: "lite0", tasks: [], sent_frames_max: 2, credit_valid_ms: 2000, payload_bytes_max: 262144,
    reference_window: 4, reference_epoch: 1, server: "", ...more,
  };
}
