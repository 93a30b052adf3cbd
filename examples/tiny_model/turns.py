"""Questions about what a picture shows, and their right answers, in two languages.

Knows the facts of each kind of picture and how people ask about them. Knows nothing of drawing, of
conversations or of tokens.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass

import scene as scenes
from clips import Clip
from documents import Chart, Screen, trend_of
from questions import FIELD_ANSWERS, FIELD_QUESTIONS, OFF_TOPIC, QUESTIONS
from reading import Line
from scene import Scene
from wording import (
    ABOUT_ME,
    NO_PICTURE,
    ZH,
    article,
    at_time_said,
    boxes_json,
    count_of,
    describe_scene,
    events_said,
    listed,
    name,
    place,
    points_json,
    shape_at,
    timeline,
)


@dataclass(frozen=True)
class Turn:
    """A question and its right answer. `kind` names the question, e.g. "describe"."""

    kind: str
    question: str
    answer: str


class Asker:
    """Words questions in one language."""

    def __init__(self, rng: random.Random, lang: str) -> None:
        self.rng, self.lang = rng, lang

    def turn(self, kind: str, answer: str, **names: str) -> Turn:
        """A paraphrase of question `kind` with its answer."""
        question = self.rng.choice(QUESTIONS[kind][self.lang == "zh"])
        for key, value in names.items():
            question = question.replace("{" + key + "}", value)
        return Turn(kind, question, answer)

    def say(self, english: str, chinese: str) -> str:
        """The one in this language."""
        return chinese if self.lang == "zh" else english


def scene_turns(ask: Asker, scene: Scene) -> Iterator[Turn]:
    """Endless questions about a scene, except boxes."""
    rng, lang, zh = ask.rng, ask.lang, ask.lang == "zh"
    while True:
        kind = rng.choice(("describe", "describe", "count", "count_kind", "at", "at", "colour",
                           "where", "exists"))  # fmt: skip
        if kind == "describe":
            yield ask.turn(kind, describe_scene(scene, lang))
        elif kind == "count":
            noun = "图形" if zh else "shape"
            yield ask.turn(kind, count_of(len(scene.shapes), noun, lang))
        elif kind == "count_kind":
            if rng.random() < 0.6:
                what = rng.choice(scenes.SHAPES)
                count = sum(shape.kind == what for shape in scene.shapes)
                noun = ZH[what] if zh else what
            else:
                what = rng.choice(list(scenes.COLOURS))
                count = sum(shape.colour == what for shape in scene.shapes)
                noun = ZH[what] + "图形" if zh else f"{what} shape"
            yield ask.turn(kind, count_of(count, noun, lang), x=noun)
        elif kind == "at":
            cells = [shape.cell for shape in scene.shapes]
            cell = rng.choice(cells if rng.random() < 0.75 else scenes.CELLS)
            where = place(cell, lang)
            found = [shape for shape in scene.shapes if shape.cell == cell]
            if found:
                what = name(found[0], lang)
                answer = f"{where}是{what}。" if zh else f"{article(what).capitalize()} is {where}."
            else:
                answer = f"{where}什么都没有。" if zh else f"There is nothing {where}."
            yield ask.turn(kind, answer, x=where)
        elif kind == "colour":
            kinds = [shape.kind for shape in scene.shapes]
            what = rng.choice(kinds if rng.random() < 0.85 else scenes.SHAPES)
            colours = [shape.colour for shape in scene.shapes if shape.kind == what]
            noun = ZH[what] if zh else what
            said = listed([ZH[colour] if zh else colour for colour in colours], lang)
            if not colours:
                answer = f"没有{noun}。" if zh else f"There is no {noun}."
            elif zh:
                answer = f"{noun}是{said}。"
            else:
                answer = f"The {noun}{'s are' if len(colours) > 1 else ' is'} {said}."
            yield ask.turn(kind, answer, x=noun)
        else:
            shape, there = pick_shape(rng, scene)
            noun, where = name(shape, lang), place(shape.cell, lang)
            missing = f"没有{noun}。" if zh else f"There is no {noun}."
            if kind == "where":
                answer = f"{noun}在{where}。" if zh else f"The {noun} is {where}."
                yield ask.turn(kind, answer if there else missing, x=noun)
            elif there:
                yes = f"有，{shape_at(shape, lang)}。" if zh else (
                    f"Yes, there is {shape_at(shape, lang)}."
                )  # fmt: skip
                yield ask.turn(kind, yes, x=noun)
            else:
                yield ask.turn(kind, missing if zh else f"No, there is no {noun}.", x=noun)


def pick_shape(rng: random.Random, scene: Scene) -> tuple[scenes.Shape, bool]:
    """A shape of the scene, or now and then one that is not there; and whether it is there."""
    if rng.random() < 0.8 or len(scene.shapes) >= 8:
        return rng.choice(scene.shapes), True
    return scenes.new_shape(rng, scene), False


def locate_turns(ask: Asker, scene: Scene, size: tuple[int, int]) -> Iterator[Turn]:
    """Endless questions for boxes and points. Labels stay English: they are data."""
    rng = ask.rng
    while True:
        kind = rng.choice(("locate", "locate", "locate_all", "locate_kind", "point"))
        if kind == "locate_all":
            found = list(scene.shapes)
        elif kind == "locate_kind":
            what = rng.choice(scene.shapes).kind
            found = [shape for shape in scene.shapes if shape.kind == what]
        else:
            shape, there = pick_shape(rng, scene)
            found = [shape] if there else []
        noun = ""
        if kind == "locate_kind":
            noun = ZH[what] if ask.lang == "zh" else what + ("s" if len(found) > 1 else "")
        elif kind != "locate_all":
            noun = name(shape, ask.lang)
        said = [(scenes.box_1000(part, *size), name(part, "en")) for part in found]
        answer = points_json(said) if kind == "point" else boxes_json(said)
        yield ask.turn("locate" if kind == "locate_kind" else kind, answer, x=noun)


def text_turns(ask: Asker, texts: list[str]) -> Iterator[Turn]:
    """Endless questions about printed lines; mostly for all of them."""
    count = len(texts)
    while True:
        kind = ask.rng.choice(("read", "read", "read", "describe", "line_count", "line_first",
                               "line_last"))  # fmt: skip
        if kind == "read":
            yield ask.turn(kind, "\n".join(texts))
        elif kind == "describe":
            quoted = " ".join(f'"{text}"' for text in texts)
            english = f"The image shows {count} line{'s' * (count > 1)} of text: {quoted}"
            yield ask.turn(kind, ask.say(english, f"图中有{count}行文字：{quoted}"))
        elif kind == "line_count":
            english = f"There {'is' if count == 1 else 'are'} {count} line{'s' * (count > 1)}."
            yield ask.turn(kind, ask.say(english, f"有{count}行文字。"))
        else:
            yield ask.turn(kind, texts[0] if kind == "line_first" else texts[-1])


def page_turns(ask: Asker, lines: list[Line]) -> Iterator[Turn]:
    """A page full of print: nothing but reading all of it."""
    rows: dict[float, list[Line]] = {}
    for line in lines:
        rows.setdefault(line.y_centre, []).append(line)
    texts = [" ".join(line.text for line in row) for row in rows.values()]
    while True:
        yield ask.turn("read", "\n".join(texts))


def invoice_turns(ask: Asker, fields: dict[str, str]) -> Iterator[Turn]:
    """Endless questions about an invoice."""
    rng, zh = ask.rng, ask.lang == "zh"
    while True:
        kind = rng.choice(("invoice", "invoice", "field", "field", "describe"))
        if kind == "invoice":
            yield ask.turn(kind, json.dumps(fields, ensure_ascii=False))
        elif kind == "describe":
            english = f"An invoice for {fields['customer']}. The total is {fields['total']}."
            chinese = f"一张 {fields['customer']} 的发票，总额是 {fields['total']}。"
            yield ask.turn(kind, ask.say(english, chinese))
        else:
            key = rng.choice(list(fields))
            answer = FIELD_ANSWERS[key][zh].replace("{x}", fields[key])
            yield Turn(f"field_{key}", rng.choice(FIELD_QUESTIONS[key][zh]), answer)


def trend_said(values: tuple[int, ...], ask: Asker) -> str:
    """Rising, falling or mixed."""
    return {
        "rising": ask.say("The values are rising.", "数值在上升。"),
        "falling": ask.say("The values are falling.", "数值在下降。"),
        "mixed": ask.say("The values are mixed.", "数值有升有降。"),
    }[trend_of(values)]


def chart_turns(ask: Asker, chart: Chart) -> Iterator[Turn]:
    """Endless questions about a bar chart."""
    rng = ask.rng
    high = chart.labels[chart.values.index(max(chart.values))]
    low = chart.labels[chart.values.index(min(chart.values))]
    trend = trend_said(chart.values, ask)
    count = len(chart.labels)
    names = ", ".join(chart.labels)
    while True:
        kind = rng.choice(("highest", "highest", "lowest", "lowest", "trend", "trend", "bars",
                           "bar_labels", "describe", "value"))  # fmt: skip
        if kind == "highest":
            yield ask.turn(kind, ask.say(f"{high} is the highest.", f"{high} 最高。"))
        elif kind == "lowest":
            yield ask.turn(kind, ask.say(f"{low} is the lowest.", f"{low} 最低。"))
        elif kind == "trend":
            yield ask.turn(kind, trend)
        elif kind == "bars":
            yield ask.turn(kind, ask.say(f"There are {count} bars.", f"有{count}个柱子。"))
        elif kind == "bar_labels":
            yield ask.turn(kind, names)
        elif kind == "describe":
            english = f"A bar chart with {count} bars: {names}. {high} is the highest. {trend}"
            chinese = f"一张有{count}个柱子的柱状图：{names}。{high} 最高。{trend}"
            yield ask.turn(kind, ask.say(english, chinese))
        elif chart.values_printed:
            i = rng.randrange(count)
            label, value = chart.labels[i], chart.values[i]
            yield ask.turn(kind, ask.say(f"{label} is {value}.", f"{label} 是 {value}。"), x=label)


def screen_turns(ask: Asker, screen: Screen) -> Iterator[Turn]:
    """Endless questions about an app screen."""
    rng = ask.rng
    buttons = ", ".join(screen.buttons) or ask.say("none", "无")
    fields = ", ".join(screen.fields) or ask.say("none", "无")
    while True:
        kind = rng.choice(("screen", "screen", "buttons", "fields", "screen_title", "describe",
                           "locate", "locate", "point"))  # fmt: skip
        if kind == "screen":
            english = f"Buttons: {buttons}. Fields: {fields}."
            yield ask.turn(kind, ask.say(english, f"按钮：{buttons}。输入框：{fields}。"))
        elif kind == "buttons":
            yield ask.turn(kind, ask.say(f"Buttons: {buttons}.", f"按钮：{buttons}。"))
        elif kind == "fields":
            yield ask.turn(kind, ask.say(f"Fields: {fields}.", f"输入框：{fields}。"))
        elif kind == "screen_title":
            yield ask.turn(kind, screen.title)
        elif kind == "describe":
            english = f'An app screen "{screen.title}". Buttons: {buttons}. Fields: {fields}.'
            chinese = f'应用界面 "{screen.title}"。按钮：{buttons}。输入框：{fields}。'
            yield ask.turn(kind, ask.say(english, chinese))
        else:
            is_field = bool(screen.fields) and rng.random() < 0.4
            group = screen.fields if is_field else screen.buttons
            label = rng.choice(list(group))
            noun = ask.say(
                f"{label} {'field' if is_field else 'button'}",
                f"{label}{'输入框' if is_field else '按钮'}",
            )
            said = [(group[label], label)]
            answer = points_json(said) if kind == "point" else boxes_json(said)
            yield ask.turn(kind, answer, x=noun)


def pair_turns(ask: Asker, pair: Clip) -> Iterator[Turn]:
    """What differs between two pictures."""
    while True:
        yield ask.turn("differ", events_said(pair.events[1], ask.lang))


def clip_turns(ask: Asker, clip: Clip) -> Iterator[Turn]:
    """Endless questions about timed frames."""
    rng, zh = ask.rng, ask.lang == "zh"
    appeared = [
        (event, time_s)
        for events, time_s in zip(clip.events, clip.times_s, strict=True)
        for event in events
        if event.kind == "appear"
    ]
    while True:
        kind = rng.choice(("timeline", "timeline", "timeline", "at_time", "at_time", "event_at",
                           "when"))  # fmt: skip
        if kind == "timeline":
            yield ask.turn(kind, timeline(clip, ask.lang))
        elif kind == "at_time":
            i = rng.randrange(len(clip.times_s))
            yield ask.turn(kind, at_time_said(clip, i, ask.lang), t=str(clip.times_s[i]))
        elif kind == "event_at":
            i = rng.randrange(1, len(clip.times_s))
            answer = events_said(clip.events[i], ask.lang)
            yield ask.turn(kind, answer, t=str(clip.times_s[i]))
        elif appeared:
            event, time_s = rng.choice(appeared)
            what = name(event.shape, ask.lang)
            if sum(name(other.shape, ask.lang) == what for other, _ in appeared) > 1:
                continue
            answer = f"{what}在 {time_s} 秒出现。" if zh else f"The {what} appears at {time_s} s."
            yield ask.turn(kind, answer, x=what)


def other_turns(ask: Asker) -> Iterator[Turn]:
    """Pictures of something else, and questions that no picture answers."""
    while True:
        if ask.rng.random() < 0.6:
            yield ask.turn("describe", ABOUT_ME[ask.lang])
        else:
            yield Turn("off_topic", ask.rng.choice(OFF_TOPIC[ask.lang == "zh"]), ABOUT_ME[ask.lang])


def chat_turns(ask: Asker) -> Iterator[Turn]:
    """Talk without any picture."""
    pictured = ("describe", "count", "read", "invoice", "highest", "screen", "differ", "timeline")
    while True:
        if ask.rng.random() < 0.4:
            yield ask.turn(ask.rng.choice(pictured), NO_PICTURE[ask.lang])
        else:
            yield Turn("off_topic", ask.rng.choice(OFF_TOPIC[ask.lang == "zh"]), ABOUT_ME[ask.lang])
