/** Limits by name: those of pipeline/limits.py that an edge needs. */
export const PAYLOAD_BYTES_MAX = 262_144;
export const LATENT_SIDE_MAX = 256;
export const SYMBOL_MAGNITUDE_MAX = 4_095;
export const MESSAGE_BYTES_MAX = 4_194_304;
export const JPEG_BYTES_MAX = 2_097_152;
export const EDGE_BUNDLE_BYTES_MAX = 33_554_432;
export const CONTROL_QUEUE_MAX = 256;
export const REMEMBERED_FRAMES = 1_024;
export const FRAME_PARTS_MAX = 64;
export const FRAME_PARITY_PARTS_MAX = 3;
/** Largest message on a channel that may lose messages: one packet. */
export const DATAGRAM_BYTES_MAX = 1_150;
export const FRAME_LIFETIME_MS = 250;
export const BUDGET_MS_DEFAULT = 500;
export const LOST_GRACE_MS = 500;
export const HELLO_TIMEOUT_MS = 5_000;
export const IDLE_TIMEOUT_MS = 15_000;
export const RESUME_WINDOW_MS = 60_000;
export const GOODBYE_TIMEOUT_MS = 1_000;
export const RECONNECT_MS_MIN = 50;
export const RECONNECT_MS_MAX = 1_000;
export const PING_INTERVAL_MS = 1_000;
export const PING_INTERVAL_AT_CONNECT_MS = 25;
export const PINGS_AT_CONNECT = 8;
export const CLOCK_WINDOW_MS = 30_000;
