"""Every limit, by name. Exceeding one closes that session (or refuses that input) and disturbs nothing else."""

from __future__ import annotations

# --- Bitstream -----------------------------------------------------------------------------------------------
PAYLOAD_BYTES_MAX = 262_144
"""Largest bitstream of one frame, in bytes (a 720p-sized latent at a high rate stays far below)."""
LATENT_CHANNELS_MAX = 256
LATENT_SIDE_MAX = 256
"""Largest height and width of a latent grid, in symbols."""
LATENT_SYMBOLS_MAX = 4_194_304
"""Largest number of symbols of one frame: what a hostile header can make the decoder allocate (8 MiB of int16)."""
LAYERS_MAX = 16
SYMBOL_MAGNITUDE_MAX = 4_095
"""Symbols are clipped to ± this by the encoder; larger ones are refused by the decoder."""
STICKY_THRESHOLD_MAX = 4.0
"""Furthest that a latent may lie from a symbol that is kept for it, in symbols; beyond about 2 little is left of it."""

# --- Wire ----------------------------------------------------------------------------------------------------
MESSAGE_BYTES_MAX = 4_194_304
"""Largest message of any kind, in bytes, checked before parsing."""
JPEG_BYTES_MAX = 2_097_152
"""Largest encoded image in a JpegFrame, in bytes."""
IMAGE_PIXELS_MAX = 40_000_000
"""Largest image that is decoded from a file or a JpegFrame (8K has 33 million pixels)."""
BUNDLE_PART_BYTES = 262_144
"""Size of one BundlePart, in bytes."""
EDGE_BUNDLE_BYTES_MAX = 33_554_432
"""Largest edge half of a bundle that an edge accepts, in bytes."""
TASKS_PER_SESSION_MAX = 64
NAME_CHARS_MAX = 128
TOP_K_MAX = 20
CONTROL_QUEUE_MAX = 256
"""Control messages that a session holds for a peer that does not read; one more closes the session."""
TRANSPORT_QUEUE_MESSAGES = 64
"""Messages that a transport holds per connection and direction (ZeroMQ's high-water mark)."""
FRAME_PARTS_MAX = 64
FRAME_PARITY_PARTS_MAX = 3
"""Parity parts that a frame in parts may have besides."""
FRAMES_IN_FLIGHT_MAX = 256
"""Most frames of one session that a server holds between receipt and answer."""
SESSIONS_MAX = 1_024
REFERENCE_WINDOW = 4
"""Acknowledged latents that both ends keep per session as references, in frames."""
REMEMBERED_FRAMES = 1_024
"""Terminal states remembered for telling duplicates and late results, in frames."""

# --- Time ----------------------------------------------------------------------------------------------------
BUDGET_MS_DEFAULT = 500
"""Age at which a live frame is no longer worth answering, in milliseconds from capture."""
REPEAT_MS_DEFAULT = 1_000
"""How old an answer may be that is repeated for a live frame that hardly changed, in milliseconds."""
LOST_GRACE_MS = 500
"""A frame counts as `lost` at its deadline plus this, in milliseconds."""
CREDIT_VALID_MS = 2_000
"""How long a Credit holds, in milliseconds; it is renewed with every Result and by timer at a third of this."""
CREDIT_FRAMES = 4
"""Frames that a session may have under way beyond the last one that was answered."""
HELLO_TIMEOUT_MS = 5_000
IDLE_TIMEOUT_MS = 15_000
"""A session without any message for this long is closed, in milliseconds."""
RESUME_WINDOW_MS = 60_000
"""How long a server keeps a disconnected session for its resume token, in milliseconds."""
GOODBYE_TIMEOUT_MS = 1_000
"""How long an edge waits for the answer to its Goodbye, and a server for a network to take its own, in milliseconds."""
LOSSLESS_LOST_MS = 60_000
"""A frame without deadline (lossless) counts as `lost` this long after it was sent, in milliseconds."""
RECONNECT_MS_MIN = 50
RECONNECT_MS_MAX = 1_000
"""First and largest wait before an edge connects again, in milliseconds; doubled each time, ± 20 %."""
PING_INTERVAL_MS = 1_000
PING_INTERVAL_AT_CONNECT_MS = 25
PINGS_AT_CONNECT = 8
CLOCK_WINDOW_MS = 30_000

# --- WebRTC --------------------------------------------------------------------------------------------------
SDP_BYTES_MAX = 65_536
"""Largest offer, in bytes; one of a data channel with many candidates has about 3,000."""
ICE_CANDIDATES_MAX = 32
PEERS_CONNECTING_MAX = 16
"""Peer connections of a server that are not up yet; one more offer is answered with 429."""
DATAGRAM_BYTES_MAX = 1_150
"""Largest message on a channel that may lose messages: fits one packet, so that one lost packet costs one part."""
FRAME_LIFETIME_MS = 250
"""How long a part of a frame may be sent again, in milliseconds."""

# --- Tasks -----------------------------------------------------------------------------------------------------
TASK_CLASSES_MAX = 10_000
"""Classes of one task head."""
TASK_NAME_BYTES_MAX = 200
"""Longest name of a user's task in UTF-8, since it names a folder."""
HEAD_BYTES_MAX = 67_108_864
"""Largest array file of one head, in bytes (10,000 classes of 1,280 features with their means take 51 MB)."""
HEADS_PER_TASK_MAX = 16
"""Backbones that one version of a task has heads on."""
TASK_VERSION_MAX = 1_000_000_000
"""Highest version that a head may be sent with; the file format ends at twice that, so later ones have room."""
TASK_VERSIONS_KEPT = 10
"""Versions of a task that stay in the home folder; older ones are removed when a new one is written."""
CAPTURES_MAX = 8
"""Captures that may run on a server at one time."""
CAPTURE_FRAMES_MAX = 256
"""Frames of one capture."""
CAPTURE_S_MAX = 120
"""How long one capture may wait for its frames, in seconds."""
LESSON_PICTURES_MAX = 20_000
"""Pictures that the operator's page may hand in for one task."""
LESSON_BYTES_MAX = 2_147_483_648
"""All of them together, in bytes."""
PICTURE_BYTES_MAX = 33_554_432
"""One of them, in bytes; its pixels: IMAGE_PIXELS_MAX."""
LESSON_IDLE_S = 600
"""Pictures are removed when none came and nothing was started for so long, in seconds."""

# --- Bundle --------------------------------------------------------------------------------------------------
BUNDLE_FILE_BYTES_MAX = 67_108_864
BUNDLE_FILES_MAX = 256
BUNDLE_BYTES_MAX = 268_435_456
"""All files of a bundle together, unpacked, in bytes."""
