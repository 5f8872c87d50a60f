"""Frames of any shape into samples: float32, mono, 16 kHz. A part of the decode child."""

from __future__ import annotations

from av.audio.frame import AudioFrame
from av.error import FFmpegError
from av.filter import Graph

SAMPLE_RATE_HZ = 16_000


def converter(frame: AudioFrame) -> Graph:
    """Build what turns frames of this shape into samples.

    It goes by way of s16, as openai-whisper does (``whisper/audio.py``), so that what is no finite
    number in [-1, 1) in the file is one from here on.
    """
    try:
        return _graph(frame)
    except FFmpegError:  # libswresample knows no way from these loudspeakers to one: mix all alike
        count = frame.layout.nb_channels
        return _graph(frame, mix="+".join(f"{1 / count}*c{number}" for number in range(count)))


def _graph(frame: AudioFrame, *, mix: str | None = None) -> Graph:
    graph = Graph()
    graph.threads = 1
    shape = {"sample_rates": str(SAMPLE_RATE_HZ), "channel_layouts": "mono"}
    nodes = [
        graph.add(
            "abuffer",
            sample_rate=str(frame.sample_rate),
            sample_fmt=frame.format.name,
            channel_layout=frame.layout.name,
            time_base=f"1/{frame.sample_rate}",
        ),
        *([graph.add("pan", f"mono|c0={mix}")] if mix else []),
        graph.add("aformat", sample_fmts="s16", **shape),
        graph.add("aformat", sample_fmts="flt", **shape),
        graph.add("abuffersink"),
    ]
    graph.link_nodes(*nodes).configure()
    return graph
