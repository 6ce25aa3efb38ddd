"""Why frames were dropped, in words, with the setting that changes it."""

from __future__ import annotations

from edge_node.summary import Summary

CAUSES: dict[str, tuple[str, str]] = {
    "superseded": (
        "a newer frame was there before they could be sent: link or server take fewer frames than the source gives",
        "pin a lower rate with --quality, or take every frame of a file with --lossless",
    ),
    "too_old": (
        "they outlived their budget on this machine",
        "raise --budget-ms, or use a faster encoder form (--precision int8)",
    ),
    "encode_failed": ("they could not be encoded", "see the notices; `frankenstream doctor` checks the encoder"),
    "send_failed": ("the transport did not take them", "check the network, or lower the rate with --quality"),
    "lost": (
        "neither answer nor refusal came back in time: the link lost the frame or its result",
        "raise --budget-ms on slow links, or use a transport that repeats (tcp://)",
    ),
    "shed": (
        "the server had too many frames to answer them in time",
        "raise --budget-ms, serve fewer edges or smaller backbones, or give the server more cores or a GPU",
    ),
    "deadline": (
        "their budget ended before the server had computed them",
        "raise --budget-ms, or choose a smaller backbone with --backbone",
    ),
    "incomplete": (
        "too much of them was lost on the way: not even their first layer came over",
        "nothing to change while it is rare; else lower the rate with --quality, or use a transport that repeats (ws://)",
    ),
    "undecodable": (
        "their bytes did not decode on the server",
        "check that both ends have the same bundle (`frankenstream bundle info`)",
    ),
    "engine_failed": ("the server's engine failed on them", "see the server's log"),
    "disconnected": ("the connection was down", "check the server's address and log; the edge reconnects by itself"),
    "stopped": (
        "they were still under way when the run was ended",
        "nothing to change: use --lossless to wait for every answer",
    ),
}
"""Cause → (what it means, what changes it)."""


def explain_drops(summary: Summary) -> list[str]:
    """One line for each cause, most frequent first; one line that says so where nothing was dropped."""
    if not summary.captured:
        return ["No frame was captured."]
    lines = []
    if summary.unchanged:
        lines.append(
            f"{summary.unchanged} frames ({100 * summary.unchanged / summary.captured:.0f} %) unchanged: nothing worth "
            "sending had changed, the last answer was repeated. To send them all: --repeat-ms 0."
        )
    if not summary.dropped:
        if not summary.in_flight:
            lines.append(f"No frame was dropped: all {summary.captured} have their answer.")
        return lines
    for cause, frames in sorted(summary.dropped.items(), key=lambda item: -item[1]):
        meaning, setting = CAUSES[cause]
        share = 100 * frames / summary.captured
        noun = "frame" if frames == 1 else "frames"
        lines.append(f"{frames} {noun} ({share:.0f} %) {cause}: {meaning}. To change it: {setting}.")
    return lines
