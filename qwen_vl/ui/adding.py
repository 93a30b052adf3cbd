"""What is added to a question box is looked at right away: bad files go, documents become pages.

The page's script (`adding.js`) sends files here and puts what is said into the box, so that words
that are typed meanwhile stay. Knows conversations and media; knows nothing of engines.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder

from qwen_vl.errors import Abandoned, Busy, TooLarge, UserError
from qwen_vl.media.documents import HEAD_BYTES, Document, as_ranges, is_document, read_pages
from qwen_vl.ui.conversation import QUIET, REFUSAL_SHOWN_S, SOON, UNQUEUED, Conversation, session_of
from qwen_vl.ui.history import check_paths
from qwen_vl.ui.keeping import object_in
from qwen_vl.ui.markup import toast
from qwen_vl.ui.refusals import told
from qwen_vl.ui.strings import label, language_of, say
from qwen_vl.ui.uploads import own_uploads

# The name of a picture that is a page tells whose it is: so what a browser kept is enough to choose
# other pages. adding.css and adding.js know it too.
_PAGE = re.compile(r"(?P<document>.+)-page-(?P<number>\d{1,9})-of-(?P<count>\d{1,9})\.jpg")
FIELDS = 3  # documents whose pages can be chosen at a time; of more, those that came stay
LOOKS_AT_ONCE = 8
PASTED_CHARS = 10_000_000  # a paste stays text; Send says where it is too long for the model

# What becomes of the box: in the place of files whose paths begin so stand others, or none.
Changes = dict[str, list[str]]


@dataclass(frozen=True)
class Opened:
    """A document of which pages stand in the box; `numbers` are theirs, from 1, of `page_count`."""

    path: Path
    page_count: int
    numbers: list[int]


def documents_in(paths: Iterable[str]) -> list[Opened]:
    """The documents whose pages are among these files, in the order in which they come."""
    found: dict[str, Opened] = {}
    for page in filter(None, map(_PAGE.fullmatch, paths)):
        name = page["document"]
        document = found.setdefault(name, Opened(Path(name), int(page["count"]), []))
        document.numbers.append(int(page["number"]))
    return list(found.values())


class Adding:
    """The handlers of one question box."""

    def __init__(self, conversation: Conversation) -> None:
        self.conversation = conversation
        self.settings = conversation.settings

    def look(self, box: dict[str, Any] | None, request: gr.Request) -> str:
        """The box as the browser sends it -> changes as JSON."""
        lang, session = language_of(request), session_of(request)
        changes: Changes = {}
        for file in (box or {}).get("files") or []:
            path = Path(file["path"])
            name = file.get("orig_name") or path.name
            try:
                check_paths([str(path)], Path(get_upload_folder()))
                if _is_document(path):
                    changes[str(path)] = self._written(path, read_pages(path, self.settings))
                else:
                    self._check_picture(session, path)
            except (Busy, Abandoned):  # says nothing about the file
                continue
            except UserError as error:
                changes[str(path)] = []
                text = say("file_refused", lang, name=name, why=told(error, lang))
                gr.Warning(toast(text), duration=REFUSAL_SHOWN_S)
        return json.dumps(changes)

    def fields(self, box: dict[str, Any] | None, request: gr.Request) -> list[Any]:
        """-> what the fields say, as JSON, and the fields.

        There is one for each document in the box, FIELDS at most; the others are hidden.
        """
        lang, opened = language_of(request), _opened(box)[:FIELDS]
        shown = [self._field(document, lang) for document in opened]
        hidden = [gr.Textbox(visible=False)] * (FIELDS - len(shown))
        said = {str(place): as_ranges(one.numbers) for place, one in enumerate(opened)}
        return [json.dumps(said), *shown, *hidden]

    def choosing(self, place: int) -> Callable[..., tuple[str, Any, Any]]:
        """The handler of one field: other pages of its document -> (changes as JSON, the field,
        what the fields say)."""

        def choose(
            chosen: str, said: str, box: dict[str, Any] | None, request: gr.Request
        ) -> tuple[str, Any, Any]:
            opened, known = _opened(box), object_in(said)
            # A field that was left as it was asks for nothing: pages may be gone from the box.
            if place >= len(opened) or chosen.strip() == known.get(str(place)):
                return "{}", gr.skip(), gr.skip()
            path, lang = opened[place].path, language_of(request)
            try:
                check_paths([str(path)], Path(get_upload_folder()))
                changes = {str(path): self._written(path, read_pages(path, self.settings, chosen))}
            except UserError as error:
                gr.Warning(toast(told(error, lang)), duration=REFUSAL_SHOWN_S)
                shown = as_ranges(opened[place].numbers)
                return "{}", shown, json.dumps(known | {str(place): shown})
            # Said at once, not when the pages stand there: the field may be left before.
            said = json.dumps(known | {str(place): chosen.strip()})
            return json.dumps(changes), gr.skip(), said

        return choose

    def _check_picture(self, session: str, path: Path) -> None:
        """Decodes a picture that is new, so that Send finds no fault with it."""
        pictures = self.conversation.pictures
        if pictures.get(session, path) is not None:
            return
        try:
            self.conversation.opened(session, path).decode()
        except UserError:
            pictures.forget(session, path)
            raise

    def _field(self, document: Opened, lang: str) -> gr.Textbox:
        facts = {"name": document.path.name, "count": document.page_count}
        words = say("pages_of", lang, most=self.settings.max_document_pages, **facts)
        return gr.Textbox(as_ranges(document.numbers), label=words, visible=True)

    def _written(self, path: Path, document: Document) -> list[str]:
        """The pages as files beside the document, which count as uploads do."""
        files = {
            path.with_name(
                f"{path.name}-page-{page.number}-of-{document.page_count}.jpg"
            ): page.picture.jpeg
            for page in document.pages
        }
        uploads = own_uploads(self.settings)
        ticket = uploads.begin(sum(map(len, files.values())))
        if ticket is None:
            raise TooLarge("There is no room for uploads now: try again later.")
        try:
            for file, jpeg in files.items():
                file.write_bytes(jpeg)
        finally:
            uploads.end(ticket)
        return [str(file) for file in files]


def _is_document(path: Path) -> bool:
    if path.suffix.lower() == ".pdf":
        return True
    try:
        with path.open("rb") as file:
            return is_document(file.read(HEAD_BYTES))
    except FileNotFoundError:  # told as a picture that is gone
        return False


def _opened(box: dict[str, Any] | None) -> list[Opened]:
    return documents_in(file["path"] for file in (box or {}).get("files") or [])


def lay_out_pages() -> list[gr.Textbox]:
    """The fields that say which pages of documents are asked about."""
    with gr.Row(elem_id="pages"):
        return [
            gr.Textbox(label=label("pages"), visible=False, max_lines=1, min_width=240)
            for _ in range(FIELDS)
        ]


def wire(adding: Adding, box: gr.MultimodalTextbox, fields: Sequence[gr.Textbox] = ()) -> None:
    """`fields` are missing where no documents are offered: of one, the first pages would count."""
    changes = gr.Textbox(visible=False)
    put: dict[str, Any] = {"js": "(changes, box) => adding.merged(changes, box)", **SOON}
    looked = {"concurrency_limit": LOOKS_AT_ONCE, "trigger_mode": "multiple", **QUIET}
    # Gradio tells of every key that is pressed; the script knows what is new.
    look = gr.Button(elem_id=f"look-{box.elem_id}")
    for trigger in (box.change, gr.Button(elem_id=f"see-{box.elem_id}").click):
        tell(trigger, box)
    found = look.click(adding.look, box, changes, preprocess=False, **looked)
    tell(found.then(None, [changes, box], box, **put).then, box)
    if not fields:
        return
    said = gr.Textbox(visible=False)
    shown: dict[str, Any] = {"preprocess": False, "trigger_mode": "always_last", **SOON}
    pages = gr.Button(elem_id=f"pages-of-{box.elem_id}")
    pages.click(adding.fields, box, [said, *fields], **shown)
    for place, field in enumerate(fields):
        chosen = gr.on(
            [field.submit, field.blur],
            adding.choosing(place),
            [field, said, box],
            [changes, field, said],
            preprocess=False,
            **SOON,
        )
        tell(chosen.then(None, [changes, box], box, **put).then, box)


def tell(trigger: Any, box: gr.MultimodalTextbox) -> None:
    """At this event the script looks at the box. Gradio is silent when the server has set it."""
    seen = f"(box) => adding.seen(box, {json.dumps(box.elem_id)})"
    trigger(None, box, None, js=seen, **UNQUEUED)
