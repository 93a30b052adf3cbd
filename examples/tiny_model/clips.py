"""Stories of shapes over time: the scenes of a clip and what happens between them.

Knows scenes and events. Knows nothing of how they are told, of questions or of tokens.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from scene import (
    CELLS,
    COLOURS,
    Scene,
    Shape,
    make_scene,
    new_shape,
    place_shape,
    tinted,
    with_shapes,
)

KINDS = ("appear", "move", "turn", "disappear")


@dataclass(frozen=True)
class Event:
    """One change. `shape` is the shape before it; `after` the shape after it, if it is there."""

    kind: str
    shape: Shape
    after: Shape | None


@dataclass(frozen=True)
class Clip:
    """Scenes at times; `events[i]` leads from scene i - 1 to scene i (`events[0]` is empty)."""

    times_s: tuple[float, ...]
    scenes: tuple[Scene, ...]
    events: tuple[tuple[Event, ...], ...]


def happen(rng: random.Random, scene: Scene, most: int = 3) -> tuple[Scene, Event]:
    """One random event that leaves at most `most` shapes."""
    shapes = list(scene.shapes)
    kinds = [
        kind
        for kind in KINDS
        if (kind == "appear" and len(shapes) < most) or (kind != "appear" and shapes)
    ]
    kind = rng.choice(kinds)
    if kind == "appear":
        shape = new_shape(rng, scene)
        return with_shapes(scene, [*shapes, shape]), Event(kind, shape, shape)
    shape = rng.choice(shapes)
    shapes.remove(shape)
    if kind == "disappear":
        return with_shapes(scene, shapes), Event(kind, shape, None)
    if kind == "move":
        taken = {other.cell for other in scene.shapes}
        cell = rng.choice([cell for cell in CELLS if cell not in taken])
        after = replace(shape, cell=cell)
        if scene.look:
            after = place_shape(
                rng, replace(scene, shapes=tuple(shapes)), shape.kind, shape.colour, cell
            )
    else:
        looks = {(other.kind, other.colour) for other in shapes}
        colours = [
            colour
            for colour in COLOURS
            if colour not in scene.banned
            and colour != shape.colour
            and (shape.kind, colour) not in looks
        ]
        colour = rng.choice(colours)
        after = replace(shape, colour=colour, rgb=tinted(rng, colour))
    return with_shapes(scene, [*shapes, after]), Event(kind, shape, after)


def make_pair(rng: random.Random, wide: bool = False) -> Clip:
    """Two scenes with 0 to 2 changes between them."""
    first = make_scene(rng, rng.choice((1, 2, 2, 3)), wide)
    second, events = first, []
    for _ in range(rng.choice((0, 1, 1, 1, 2))):
        changed, event = happen(rng, second, 4)
        # Each shape changes at most once, so that the difference has one true wording.
        if any(event.shape in (old.shape, old.after) for old in events):
            continue
        if any(event.after and event.after.cell == old.shape.cell for old in events):
            continue
        second = changed
        events.append(event)
    return Clip((0.0, 1.0), (first, second), ((), tuple(events)))


def make_times(rng: random.Random, count: int) -> tuple[float, ...]:
    """Rising times in seconds with one decimal place, evenly spaced or not."""
    step = rng.choice((0.5, 1.0, 1.0, 2.0, 2.0, 3.0, 4.0, 5.0, 10.0, 30.0, rng.uniform(0.5, 12)))
    start = 0.0 if rng.random() < 0.8 else rng.uniform(0, 20)
    times = [round(start, 1)]
    even = rng.random() < 0.6
    for _ in range(count - 1):
        times.append(round(times[-1] + (step if even else step * rng.uniform(0.4, 1.6)) + 0.04, 1))
    return tuple(times)


def make_clip(rng: random.Random, count: int, wide: bool = False) -> Clip:
    """`count` scenes; mostly one event between two, sometimes none."""
    scene = make_scene(rng, rng.choice((0, 1, 1, 1, 2)), wide)
    scenes, events = [scene], [()]
    calm = rng.choice((0.05, 0.2, 0.5))  # how often nothing happens
    for _ in range(count - 1):
        if rng.random() < calm:
            events.append(())
        else:
            scene, event = happen(rng, scene)
            events.append((event,))
        scenes.append(scene)
    return Clip(make_times(rng, count), tuple(scenes), tuple(events))
