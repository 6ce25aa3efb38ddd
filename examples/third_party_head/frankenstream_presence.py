"""A task that needs no training: is there anything to see, or is the lens covered? By how the feature map varies."""

import numpy as np

from frankenstream import Catalogue, Task

LABELS = ("nothing to see", "a scene")


class PresenceHead:
    name, kind, labels, version, title = "presence", "spread", LABELS, 1, "Is there anything to see?"
    reads = "feature"  # the map at the cut, (B, F, h, w); leave it out for pooled features, (B, D)

    def __init__(self, backbone):
        self.backbone = backbone

    def logits(self, feature):
        spread = feature.std(axis=(2, 3)).mean(axis=1) / (np.abs(feature).mean(axis=(1, 2, 3)) + 1e-6)
        return np.stack([np.zeros_like(spread), 20 * (spread - 0.85)], axis=1)


def task():
    catalogue = Catalogue("presence", "Presence", "this example", "Apache-2.0", "", LABELS, LABELS)
    return Task("presence", catalogue, lambda backbone, width: PresenceHead(backbone))
