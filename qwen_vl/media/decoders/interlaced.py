"""Frames of two half pictures -> whole ones, as FFmpeg's filter bwdif makes them.

Knows decoded frames. Frames that are whole pass as they are, as long as no other has come.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import av
import av.filter


def deinterlaced(frames: Iterable[Any]) -> Iterator[Any]:
    """The frames, each as soon as it is whole; `frame.time` stays what it was."""
    graph: Any = None
    kind: tuple[Any, ...] = ()
    for frame in frames:
        if graph is None and not frame.interlaced_frame:
            yield frame
            continue
        now = (frame.width, frame.height, frame.format.name)
        if graph is not None and now != kind:
            yield from _rest(graph)
            graph = None
        if graph is None:
            graph, kind = _graph(frame), now
        graph.push(frame)
        yield from _ready(graph)
    if graph is not None:
        yield from _rest(graph)


def _graph(frame: Any) -> Any:
    graph = av.filter.Graph()
    source = graph.add_buffer(
        width=frame.width,
        height=frame.height,
        format=frame.format,
        time_base=frame.time_base,
    )
    # One whole picture for each frame; frames of a stream that are whole already stay.
    whole = graph.add("bwdif", "mode=send_frame:deint=interlaced")
    sink = graph.add("buffersink")
    source.link_to(whole)
    whole.link_to(sink)
    graph.configure()
    return graph


def _ready(graph: Any) -> Iterator[Any]:
    while True:
        try:
            yield graph.pull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return


def _rest(graph: Any) -> Iterator[Any]:
    graph.push(None)
    yield from _ready(graph)
