"""Server and edge in one process, over `memory://`: the labels of the first frames of a clip."""

from __future__ import annotations

from edge_node import FrameRecord, LatentPayload, NodeSettings
from frankenstream import Bundle, EdgeNode, EdgeSession, FrameEncoder, Server, connect, open_source
from recordings.samples import sample_path


def show(record: FrameRecord) -> None:
    tops = ", ".join(f"{task}: {labels[0].label}" for task, labels in record.tasks.items() if labels)
    print(f"frame {record.frame}  {record.payload_bytes} bytes  {record.capture_to_result_ms:.0f} ms  {tops}")


def main() -> None:
    bundle = Bundle.open()
    index = bundle.edge_spec.operating_point_index()
    points = bundle.latent_spec.operating_points
    payload = LatentPayload(FrameEncoder(bundle), bundle.latent_codec(), points, operating_point=index)
    with Server(bundle, ["memory://example"], backbones=["lite0"]) as server:
        node = EdgeNode(
            open_source(str(sample_path())),
            payload,
            EdgeSession(codec_id=bundle.codec_id, lossless=True),
            lambda session, on_event: connect(server.urls[0], session, on_event),
            settings=NodeSettings(lossless=True, frames_max=5),
            on_record=show,
        )
        summary = node.run()
    print(f"captured {summary.captured}, answered {summary.answered}")


if __name__ == "__main__":
    main()
