"""Recordings: frame-paced replay of video, and the sample clips that ship with FrankenStream."""
