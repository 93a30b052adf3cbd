"""The tiny model's data: pictures show what the answers say, and training sees what users send.

Needs no trained weights and no network.
"""

from __future__ import annotations

import ast
import json
import random
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

FOLDER = Path(__file__).parent.parent / "examples" / "tiny_model"
sys.path.insert(0, str(FOLDER))

import batches  # noqa: E402
import clips  # noqa: E402
import dialogues  # noqa: E402
import documents  # noqa: E402
import encode  # noqa: E402
import evaluate  # noqa: E402
import fonts  # noqa: E402
import gist  # noqa: E402
import looks  # noqa: E402
import network  # noqa: E402
import optim  # noqa: E402
import processor  # noqa: E402
import read_stage  # noqa: E402
import reading  # noqa: E402
import recall_stage  # noqa: E402
import scene  # noqa: E402
import sources  # noqa: E402
import tokenizer  # noqa: E402
import wording  # noqa: E402
from transformers import AutoImageProcessor, AutoTokenizer  # noqa: E402

MEGABYTE = 1_000_000
LIMIT_FILE, LIMIT_ALL = 10 * MEGABYTE, 40 * MEGABYTE


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a freshly made tokenizer and processor settings."""
    path = tmp_path_factory.mktemp("tiny")
    tokenizer.save_tokenizer(tokenizer.build_tokenizer(), path)
    return path


@pytest.fixture(scope="module")
def prepared(folder: Path) -> processor.PictureProcessor:
    """The processor as users get it."""
    words = AutoTokenizer.from_pretrained(folder)
    images = AutoImageProcessor.from_pretrained(folder, backend="pil")
    return processor.PictureProcessor(images, words, chat_template=words.chat_template)


@pytest.fixture(scope="module")
def encoder(prepared: processor.PictureProcessor) -> encode.Encoder:
    return encode.Encoder(prepared.tokenizer.backend_tokenizer)


def as_inputs(prepared: processor.PictureProcessor, sample: dialogues.Sample):
    """What the processor makes of a whole conversation."""
    return prepared.apply_chat_template(
        [processor.as_parts(message) for message in sample.messages],
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )


@pytest.mark.parametrize("kind", scene.SHAPES)
def test_a_box_is_the_bounding_box_of_the_drawn_pixels(kind: str) -> None:
    rng = random.Random(5)
    for _ in range(10):
        width, height = documents.frame_size(rng)
        blank = scene.make_scene(rng, 0)
        shape = scene.new_shape(rng, blank)
        shape = scene.replace(shape, kind=kind)
        shown = scene.with_shapes(blank, [shape])
        pixels = np.asarray(scene.draw_scene(shown, width, height))
        ys, xs = np.nonzero((pixels != np.array(blank.ground)).any(-1))
        drawn = [
            xs.min() / width,
            ys.min() / height,
            (xs.max() + 1) / width,
            (ys.max() + 1) / height,
        ]
        box = scene.box_1000(shape, width, height)
        pixel = 1000 / min(width, height)
        assert np.abs(np.array(box) - np.array(drawn) * 1000).max() <= 1.5 * pixel
        assert all(0 <= side <= 1000 for side in box)


def test_shapes_of_a_scene_differ_in_place_and_look_and_show_on_the_ground() -> None:
    rng = random.Random(3)
    for _ in range(200):
        shown = scene.make_scene(rng, 4)
        assert len({shape.cell for shape in shown.shapes}) == 4
        assert len({(shape.kind, shape.colour) for shape in shown.shapes}) == 4
        assert not {shape.colour for shape in shown.shapes} & shown.banned


def test_events_lead_from_each_scene_to_the_next() -> None:
    rng = random.Random(8)
    for _ in range(100):
        clip = clips.make_clip(rng, 5)
        assert list(clip.times_s) == sorted(set(clip.times_s))
        for before, after, events in zip(
            clip.scenes[:-1], clip.scenes[1:], clip.events[1:], strict=True
        ):
            shapes = set(before.shapes)
            for event in events:
                if event.kind != "appear":
                    shapes.remove(event.shape)
                if event.after:
                    shapes.add(event.after)
            assert shapes == set(after.shapes)


@pytest.mark.parametrize("task", dialogues.TASKS)
@pytest.mark.parametrize("lang", ["en", "zh"])
def test_a_sample_is_a_conversation_in_one_language_and_repeats_exactly(
    task: str, lang: str
) -> None:
    for seed in range(30):
        sample = dialogues.make_sample(task, seed, lang)
        again = dialogues.make_sample(task, seed, lang)
        assert (sample.turns, sample.times_s) == (again.turns, again.times_s)
        assert [im.tobytes() for im in sample.images] == [im.tobytes() for im in again.images]
        assert 1 <= len(sample.turns) <= 4
        roles = [message["role"] for message in sample.messages if message["role"] != "system"]
        assert roles == ["user", "assistant"] * len(sample.turns)
        answers = [m["content"] for m in sample.messages if m["role"] == "assistant"]
        assert answers == [turn.answer for turn in sample.turns]
        for image in sample.images:
            assert max(image.size) <= documents.MAX_SIDE
            assert max(image.size) <= 2 * min(image.size) + 1
        for turn in sample.turns:
            asked_in_chinese = any("\u4e00" <= char <= "\u9fff" for char in turn.question)
            assert asked_in_chinese == (lang == "zh")


def test_boxes_and_fields_are_json_and_values_are_printed_on_the_picture() -> None:
    for seed in range(60):
        for turn in dialogues.make_sample("locate", seed).turns:
            if turn.kind in ("locate", "locate_all", "point"):
                for part in json.loads(turn.answer):
                    assert set(part) == {"point_2d" if turn.kind == "point" else "bbox_2d", "label"}
        sample = dialogues.make_sample("invoice", seed)
        printed = {line.text for line in sample.shown[0]}
        for turn in sample.turns:
            if turn.kind == "invoice":
                assert set(json.loads(turn.answer).values()) <= printed


def test_print_that_nobody_can_read_is_said_to_be_so() -> None:
    for seed in range(20):
        for turn in dialogues.make_sample("illegible", seed, "en").turns:
            assert turn.answer in (wording.UNREADABLE["en"], wording.ABOUT_ME["en"])


def test_letters_of_five_pixels_and_less_are_all_that_is_left() -> None:
    """Two words of one length look the same then, but for a little."""

    def printed(text: str) -> tuple[np.ndarray, np.ndarray]:
        printer = documents.Printer((200, 60), (255, 255, 255))
        printer.line(text, fonts.BUILT_IN, 30, 10, 30, (0, 0, 0), reading.Note("line"))
        image = looks.illegible(printer.image, 30, random.Random(1))
        assert image.size == (200, 60)
        return np.asarray(printer.image, float), np.asarray(image, float)

    (one, one_left), (two, two_left) = printed("Hamburg"), printed("Hanover")
    assert np.abs(one_left - two_left).mean() < np.abs(one - two).mean() / 2


def test_text_answers_hold_the_printed_lines_in_order() -> None:
    for seed in range(60):
        sample = dialogues.make_sample("text", seed)
        for turn in sample.turns:
            if turn.kind == "read":
                assert turn.answer.split("\n") == [line.text for line in sample.shown[0]]


def test_characters_under_visual_tokens_are_where_they_are_printed() -> None:
    line = reading.Line("AB 7", fonts.BUILT_IN, 32, 4, 40)
    labels = reading.token_labels([line], (128, 64), (2, 4))
    found = [reading.SYMBOLS[i - 1] for i in labels.slots[4:].ravel() if i]
    assert found == ["A", "B", " ", "7"]
    assert not labels.slots[:4].any()
    before = labels.hints[4:, reading.HINT_AT["before"]]
    assert before[0] == reading.NEIGHBOUR_IDS[reading.EDGE]  # nothing stands before the line


def test_shapes_under_visual_tokens_know_their_boxes() -> None:
    note = reading.Note("shape", 1, 2, (0, 500, 500, 1000))
    mark = reading.Mark("red circle", 32, 48, note)
    labels = reading.token_labels([mark], (128, 64), (2, 4))
    (at,) = labels.slots[:, 0].nonzero()[0]
    assert at == 5
    hints = dict(zip(reading.HINTS, labels.hints[at], strict=True))
    assert reading.ROLES[hints["role"] - 1] == "shape"
    steps = [hints[side] - 1 for side in ("x1", "y1", "x2", "y2")]
    assert steps == [0, 25, 25, 50]
    assert (hints["nth"], hints["of"]) == (1, 2)


@pytest.mark.parametrize("task", ["text", "invoice", "chart", "screen"])
def test_printed_answers_point_at_their_own_characters(task: str) -> None:
    pointed = 0
    for seed in range(40):
        sample = dialogues.make_sample(task, seed)
        where = {
            (round(x, 3), line.y_centre): char
            for line in sample.shown[0]
            for char, x in zip(line.text, line.centres(), strict=True)
        }
        for turn in sample.turns:
            if turn.kind not in ("read", "invoice", "screen", "highest"):
                continue
            told = sources.spots(sample, turn)
            assert len(told) == len(turn.answer)
            for char, spot in zip(turn.answer, told, strict=True):
                # What leads to a print points at its first character already.
                if spot is not None and where[round(spot.x, 3), spot.y] == char:
                    pointed += 1
            if turn.kind == "read":
                shown = [c for c, s in zip(turn.answer, told, strict=True) if c != "\n" and s]
                assert len(shown) == len(turn.answer.replace("\n", ""))
    assert pointed > 50


def test_answers_about_clips_point_at_the_right_frame() -> None:
    for seed in range(40):
        sample = dialogues.make_sample("clip", seed)
        for turn in sample.turns:
            if turn.kind != "at_time":
                continue
            for spot in sources.spots(sample, turn):
                if spot is not None:
                    assert f"{sample.times_s[spot.image]}" in turn.answer


def test_the_gist_of_frames_is_what_happened_in_the_clip() -> None:
    seen = set()
    for seed in range(60):
        clip = clips.make_clip(random.Random(seed), 5)
        size = dialogues.clip_size(random.Random(seed), 0.0)
        shown = tuple(tuple(dialogues.marks(one, size)) for one in clip.scenes)
        first, *later = gist.gists(shown, [size] * len(shown))
        assert not first.parts
        assert first.whole[gist.GIST_AT["event"]] == 0
        count = 0
        for i, picture in enumerate(later, 1):
            told = named(picture.whole)
            states = {mark.symbol: named(labels) for mark, labels in picture.parts}
            assert told["count"] == len(clip.scenes[i].shapes) - 1
            changed = [
                state for state in states.values() if gist.EVENTS[state["event"]] != "nothing"
            ]
            assert len(changed) == len(clip.events[i])
            if not clip.events[i]:
                assert gist.EVENTS[told["event"]] == "nothing"
                continue
            (event,) = clip.events[i]
            count += 1
            seen.add(event.kind)
            now = event.after or event.shape
            # At the shape, at the place that it left, and where the picture ends.
            for said in (told, states[f"{now.colour} {now.kind}"]):
                assert gist.EVENTS[said["event"]] == event.kind
                assert said["event_nth"] == count - 1
                assert list(scene.COLOURS)[said["colour"]] == event.shape.colour
                assert scene.SHAPES[said["shape"]] == event.shape.kind
                assert scene.CELLS[said["cell"]] == now.cell
                if event.kind == "turn":
                    assert list(scene.COLOURS)[said["after"]] == event.after.colour
    assert seen == set(clips.KINDS)


def test_of_two_changes_each_is_asked_at_its_own_place() -> None:
    two = 0
    for seed in range(60):
        pair = clips.make_pair(random.Random(seed))
        shown = tuple(tuple(dialogues.marks(one, (320, 200))) for one in pair.scenes)
        _, second = gist.gists(shown, [(320, 200)] * 2)
        kinds = sorted(event.kind for event in pair.events[1])
        told = [gist.EVENTS[named(labels)["event"]] for _, labels in second.parts]
        assert sorted(event for event in told if event != "nothing") == kinds
        if len(kinds) == 2:
            two += 1
            assert second.whole[gist.GIST_AT["event"]] == 0
    assert two > 5


def test_the_gist_of_shapes_says_how_many_there_are_of_each_kind_and_colour() -> None:
    for seed in range(20):
        drawn = scene.make_scene(random.Random(seed), 1 + seed % 4)
        ((labels, _),) = gist.gists((tuple(dialogues.marks(drawn, (320, 200))),), [(320, 200)])
        told = named(labels)
        for kind in scene.SHAPES:
            assert told[kind] == sum(shape.kind == kind for shape in drawn.shapes)
        for colour in scene.COLOURS:
            assert told[colour] == sum(shape.colour == colour for shape in drawn.shapes)


def named(labels: np.ndarray) -> dict[str, int]:
    return {name: int(label) - 1 for name, label in zip(gist.GIST, labels, strict=True)}


def test_a_shape_that_is_gone_is_told_from_the_place_that_it_left() -> None:
    found = 0
    for seed in range(60):
        sample = dialogues.make_sample("clip", seed, lang="en")
        for turn in sample.turns:
            told = sources.spots(sample, turn)
            for line in turn.answer.split("\n") if turn.kind == "timeline" else ():
                if not line.endswith("disappears."):
                    continue
                at = turn.answer.index(line)
                spot = told[at + len(line) - 2]
                frame = sample.times_s.index(float(line.split(" s: ")[0]))
                assert spot.image == frame
                assert (spot.x, spot.y) in {
                    (mark.x, mark.y_centre)
                    for mark in sample.shown[frame - 1]
                    if mark.symbol in line
                }
                found += 1
    assert found > 10


def test_the_gist_of_a_chart_is_asked_where_its_picture_ends(encoder: encode.Encoder) -> None:
    for seed in range(20):
        printer, chart = documents.draw_chart(random.Random(seed))
        ((labels, parts),) = gist.gists((tuple(printer.lines),), [printer.image.size])
        assert not parts
        told = dict(zip(gist.GIST, labels.tolist(), strict=True))
        assert told["count"] == len(chart.labels)
        assert chart.values[told["highest"] - 1] == max(chart.values)
        assert chart.values[told["lowest"] - 1] == min(chart.values)
        assert reading.TRENDS[told["trend"] - 1] == documents.trend_of(chart.values)
        one = encoder(dialogues.make_sample("chart", seed))
        (asked,) = np.flatnonzero(one.gists.any(1))
        assert encoder.tokenizer.id_to_token(int(one.ids[asked])) == "<|vision_end|>"


def test_guided_heads_are_measured_where_the_model_looks(
    prepared: processor.PictureProcessor, encoder: encode.Encoder
) -> None:
    torch.manual_seed(0)
    vocab = prepared.tokenizer.get_vocab()
    model = network.make_model(network.make_config(vocab, len(vocab))).eval()
    model.set_attn_implementation("eager")
    sample = dialogues.make_sample("chart", 3)
    one = encoder(sample)
    pictures = batches.lay_out_pictures([one], [])
    with torch.no_grad():
        tokens, features = network.VisionForward(model.model.visual)(
            pictures.patches, pictures.grids
        )
        _, _, looking = network.TextForward(model.model.language_model)(
            torch.from_numpy(one.ids),
            torch.from_numpy(one.positions),
            [(0, len(one.ids))],
            torch.from_numpy(pictures.places),
            tokens,
            features,
            torch.from_numpy(one.sources),
        )
        seen = model(**as_inputs(prepared, sample), output_attentions=True).attentions
    losses = [
        -seen[layer][0, head, at - ahead, one.sources[at]].log()
        for layer, heads in network.GUIDED_HEADS.items()
        for head, ahead in heads
        for at in np.flatnonzero(one.sources >= 0)
    ]
    assert float(looking) == pytest.approx(float(torch.stack(losses).mean()), rel=1e-3)


def test_the_chat_template_gives_the_prompt_format(prepared: processor.PictureProcessor) -> None:
    messages = [
        {"role": "system", "content": "S"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "<0.0 seconds>"},
                {"type": "image"},
                {"type": "text", "text": "Q"},
            ],
        },
        {"role": "assistant", "content": "A"},
        {"role": "user", "content": "R"},
    ]
    text = prepared.tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True
    )
    assert text == (
        "<|im_start|>system\nS<|im_end|>\n"
        "<|im_start|>user\n<0.0 seconds><|vision_start|><|image_pad|><|vision_end|>Q<|im_end|>\n"
        "<|im_start|>assistant\nA<|im_end|>\n"
        "<|im_start|>user\nR<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


@pytest.mark.parametrize(
    "text",
    ["图中有2个图形：左上的红色圆形。", 'INV-0817 "x" €5.20\n100%', "emoji 🙂 é", " lead  two "],
)
def test_the_tokenizer_round_trips(prepared: processor.PictureProcessor, text: str) -> None:
    words = prepared.tokenizer
    assert words.decode(words.encode(text)) == text


def test_print_is_one_token_per_character(prepared: processor.PictureProcessor) -> None:
    for text in ("INV-0817", "Water", "2024-05-01", "FOCHDO", "table"):
        assert len(prepared.tokenizer.encode(text)) == len(text)


@pytest.mark.parametrize("task", dialogues.TASKS)
def test_training_sees_the_ids_positions_and_patches_of_the_processor(
    task: str, prepared: processor.PictureProcessor, encoder: encode.Encoder
) -> None:
    sample = dialogues.make_sample(task, 21)
    mine, theirs = encoder(sample), as_inputs(prepared, sample)
    assert mine.ids.tolist() == theirs["input_ids"][0].tolist()
    if not sample.images:
        return
    patches = network.levels(torch.cat([torch.tensor(network.patchify(p)) for p in mine.pixels]))
    # The processor repeats each still picture as two frames.
    frames = theirs["pixel_values"].view(-1, 3, 2, network.PATCH_PX**2)
    assert torch.equal(frames[:, :, 0].flatten(1), patches)
    assert torch.equal(frames[:, :, 0], frames[:, :, 1])


def test_the_training_forward_equals_the_models_own(
    prepared: processor.PictureProcessor,
    encoder: encode.Encoder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on a CPU, each sequence for itself, and as on a GPU, in padded rows of several."""
    torch.manual_seed(0)
    vocab = prepared.tokenizer.get_vocab()
    model = network.make_model(network.make_config(vocab, len(vocab))).eval()
    for weight in model.parameters():
        if weight.ndim > 1:  # the real start has zeros that would hide mistakes
            torch.nn.init.normal_(weight, std=0.06)
    samples = [dialogues.make_sample(task, 4) for task in ("scene", "clip", "text", "chat")]
    told = batches.lay_out([encoder(sample) for sample in samples], [])
    make_buckets = network.make_buckets
    with torch.no_grad():
        theirs = torch.cat([model(**as_inputs(prepared, sample)).logits[0] for sample in samples])
        for several in (False, True):
            make = partial(make_buckets, several=several)
            monkeypatch.setattr(network, "make_buckets", make)
            tokens, features = network.VisionForward(model.model.visual)(
                told.pictures.patches, told.pictures.grids
            )
            hidden, _, _ = network.TextForward(model.model.language_model)(
                torch.from_numpy(told.ids),
                torch.from_numpy(told.positions),
                told.spans,
                torch.from_numpy(told.pictures.places),
                tokens,
                features,
                torch.from_numpy(told.sources),
            )
            torch.testing.assert_close(model.lm_head(hidden), theirs, atol=2e-4, rtol=1e-4)


def test_training_never_draws_an_evaluation_picture() -> None:
    # A talk step uses seeds below (step * workers + rank + 1) * 1000; recall counts on.
    most_steps, most_workers = 1_000_000, 256
    assert most_steps * most_workers * 1000 < dialogues.FIRST_EVAL_SEED
    recalled = recall_stage.FIRST_SEED + most_workers * recall_stage.WORKER_SEEDS
    assert most_steps * recall_stage.FRESH < recall_stage.WORKER_SEEDS
    assert recalled < dialogues.FIRST_EVAL_SEED
    case_seeds = [dialogues.FIRST_EVAL_SEED + sum(map(ord, row.name)) for row in evaluate.ROWS]
    assert min(case_seeds) >= dialogues.FIRST_EVAL_SEED


def test_scores() -> None:
    assert evaluate.edits("kitten", "sitting") == (3, 7)
    assert evaluate.iou([0, 0, 10, 10], [0, 0, 10, 10]) == 1
    assert evaluate.iou([0, 0, 10, 10], [5, 0, 15, 10]) == pytest.approx(1 / 3)
    truth = '[{"bbox_2d": [0, 0, 10, 10], "label": "red star"}]'
    assert evaluate.boxes(truth, truth) == (1, 1)
    assert evaluate.boxes("no json", truth) == (0, 1)
    assert evaluate.boxes("[]", "[]") == (1, 1)
    assert evaluate.fields('{"a": "1", "b": "3"}', '{"a": "1", "b": "2"}') == (1, 2)
    assert evaluate.events("a\nb\nc", "a\nb") == (2, 3)


def test_no_file_is_too_large() -> None:
    files = [path for path in FOLDER.rglob("*") if path.is_file() and "work" not in path.parts]
    assert all(path.stat().st_size < LIMIT_FILE for path in files)
    assert sum(path.stat().st_size for path in files) < LIMIT_ALL


def test_small_and_odd_pictures_are_resized_like_the_processor_does(
    prepared: processor.PictureProcessor,
) -> None:
    for size in ((40, 30), (161, 209), (700, 500), (512, 256)):
        image = Image.effect_noise(size, 60).convert("RGB")
        mine = network.levels(torch.tensor(network.patchify(encode.resize(image))))
        theirs = prepared.image_processor(images=[image], return_tensors="pt")["pixel_values"]
        theirs = theirs.view(-1, 3, 2, network.PATCH_PX**2)[:, :, 0].flatten(1)
        assert torch.equal(mine, theirs)


def test_each_question_of_a_side_task_is_asked_once() -> None:
    logits, labels = torch.randn(5, 7), torch.tensor([[1, 0], [2, 3], [0, 0], [1, 2], [0, 1]])
    counts = {"one": 2, "two": 3}
    asked = [name for name, _, _ in read_stage.each_asked(logits, labels, counts)]
    assert asked == ["one", "two"]
    rows = {"one": [0, 1, 3], "two": [1, 3, 4]}
    means = [
        torch.nn.functional.cross_entropy(logits[rows["one"], :3], torch.tensor([1, 2, 1])),
        torch.nn.functional.cross_entropy(logits[rows["two"], 3:], torch.tensor([3, 2, 1])),
    ]
    loss = read_stage.asked_loss(logits, labels, counts)
    assert float(loss) == pytest.approx(float(sum(means)) / 2)


WIDE_PRINTED = ("text", "invoice", "chart", "screen")


@pytest.mark.parametrize("task", WIDE_PRINTED)
def test_nothing_that_other_hands_print_is_cut_off(task: str) -> None:
    for seed in range(25):
        printer, _ = dialogues.WIDE_DRAWERS[task](random.Random(seed))
        width, height = printer.image.size
        assert max(width, height) <= 2 * min(width, height) + 1
        for line in printer.lines:
            font = fonts.load_font(line.font, line.size_px)
            assert line.x >= -0.5, line
            assert line.x + font.getlength(line.text) <= width + 0.5, line
            assert line.y_centre - line.size_px * 0.3 >= 0, line
            assert line.y_centre + line.size_px * 0.3 <= height, line
            assert set(line.text) <= set(fonts.CHARS) | {" "}


@pytest.mark.parametrize("task", WIDE_PRINTED)
def test_what_other_hands_print_is_where_its_label_says(task: str) -> None:
    """A printed line differs from the ground beside it: ink lies between its ends."""
    for seed in range(12):
        printer, facts = dialogues.WIDE_DRAWERS[task](random.Random(seed))
        pixels = np.asarray(printer.image.convert("L")).astype(int)
        for line in printer.lines:
            top = max(0, round(line.y_centre - line.size_px / 2))
            patch = pixels[top : round(line.y_centre + line.size_px / 2)]
            stop = line.x + fonts.load_font(line.font, line.size_px).getlength(line.text)
            patch = patch[:, max(0, round(line.x)) : round(stop) + 1]
            assert patch.max() - patch.min() >= 30, line
        printed = {line.text for line in printer.lines}
        if task == "invoice":
            assert set(facts.values()) <= printed
        elif task == "chart":
            assert set(facts.labels) <= printed
            values = {line.text for line in printer.lines if line.note.role == "value"}
            assert values == (
                {str(value) for value in facts.values} if facts.values_printed else set()
            )
        elif task == "screen":
            assert {facts.title, *facts.buttons, *facts.fields} <= printed
        else:
            assert [line.text for line in printer.lines] == facts


def test_the_highest_and_the_lowest_bar_of_other_hands_are_named() -> None:
    for seed in range(40):
        printer, chart = dialogues.WIDE_DRAWERS["chart"](random.Random(seed))
        by_role = {line.note.role: line.text for line in printer.lines}
        assert by_role["highest"] == chart.labels[chart.values.index(max(chart.values))]
        assert by_role["lowest"] == chart.labels[chart.values.index(min(chart.values))]


def test_shapes_of_other_hands_lie_inside_in_their_cells_and_hardly_overlap() -> None:
    rng = random.Random(2)
    sizes = []
    for _ in range(150):
        shown = scene.make_scene(rng, rng.randint(1, 4), wide=True)
        size = documents.frame_size(rng)
        boxes = [scene.box_1000(shape, *size) for shape in shown.shapes]
        for shape, box in zip(shown.shapes, boxes, strict=True):
            middle = ((box[1] + box[3]) / 2, (box[0] + box[2]) / 2)
            for at, where in zip(shape.cell, middle, strict=True):
                assert at / 3 * 1000 - 60 <= where <= (at + 1) / 3 * 1000 + 60
            _, points = scene.outline(shape, *size)
            for x, y in points:  # a turned corner may touch the edge, no more
                assert -0.06 * size[0] <= x <= 1.06 * size[0]
                assert -0.06 * size[1] <= y <= 1.06 * size[1]
            sizes.append((box[3] - box[1]) * size[1] / 1000 / min(size))
        for i, one in enumerate(boxes):
            assert all(evaluate.iou(one, other) < 0.25 for other in boxes[:i])
    assert min(sizes) < 0.12
    assert max(sizes) > 0.5


def test_damage_keeps_sizes_and_leaves_the_picture_recognisable() -> None:
    rng = random.Random(4)
    for seed in range(40):
        image = scene.draw_scene(scene.make_scene(random.Random(seed), 3), 200, 150)
        damaged = looks.make_damage(rng)(image)
        assert (damaged.size, damaged.mode) == (image.size, "RGB")
        off = np.abs(np.asarray(damaged).astype(int) - np.asarray(image)).mean()
        assert off < 60


def test_training_does_not_import_the_evaluation_renderer() -> None:
    """Of all modules that training leads to, none knows Cairo or what is drawn by it."""
    todo, known = ["train"], set()
    while todo:
        module = todo.pop()
        if module in known:
            continue
        known.add(module)
        if (FOLDER / f"{module}.py").exists():
            tree = ast.parse((FOLDER / f"{module}.py").read_text(encoding="utf-8"))
            for node in ast.walk(tree):
                if isinstance(node, ast.Import):
                    todo += [name.name.split(".")[0] for name in node.names]
                elif isinstance(node, ast.ImportFrom):
                    todo.append(node.module.split(".")[0])
    assert {"wide_documents", "plotted", "looks"} <= known
    assert not {"unseen", "cairocffi", "evaluate"} & known


_AHEAD = """
import multiprocessing, feed
drawn = feed.draw_ahead(lambda step: [step], 5, workers=2)
print([next(drawn)[0] for _ in range(6)], len(multiprocessing.active_children()))
drawn.close()
print(multiprocessing.active_children())
"""


def test_batches_drawn_ahead_come_in_order_and_end_with_the_reader() -> None:
    """In a process of its own: one with threads must not fork."""
    command = [sys.executable, "-c", _AHEAD]
    done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines() == ["[5, 6, 7, 8, 9, 10] 2", "[]"], done.stderr


def test_muon_treats_matrices_of_one_shape_as_each_alone() -> None:
    torch.manual_seed(3)
    grads = torch.randn(3, 8, 20)
    together = optim.orthogonalise(grads)
    for grad, update in zip(grads, together, strict=True):
        alone = optim.orthogonalise(grad[None])[0]
        torch.testing.assert_close(update, alone, atol=2e-2, rtol=2e-2)
        # Five steps bring all singular values near 1.
        values = torch.linalg.svdvals(update.float())
        assert values.min() > 0.6
        assert values.max() < 1.3


@pytest.mark.beyond
def test_pictures_by_cairo_ask_what_they_show() -> None:
    """The questions are of the evaluation's kinds; texts and fields come from the picture."""
    for row in evaluate.UNSEEN_ROWS:
        for case in evaluate.make_cases(row, 2, "unseen"):
            assert not row.kinds or case.turn.kind in row.kinds
            points, out_of = row.score(case.turn.answer, case.turn.answer)
            assert points == (0 if row.is_error else out_of)
