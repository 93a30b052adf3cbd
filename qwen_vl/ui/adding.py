"""What is added to a question box is looked at right away: bad files go, documents become pages.

The page's script (`adding.js`) sends files here and puts what is said into the box, so that words
that are typed meanwhile stay. Knows conversations and media; knows nothing of engines.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypedDict

import gradio as gr
from gradio.utils import get_upload_folder

from qwen_vl.errors import Abandoned, Busy, TooLarge, UserError
from qwen_vl.media.documents import HEAD_BYTES, Document, as_ranges, is_document, read_pages
from qwen_vl.ui.conversation import QUIET, REFUSAL_SHOWN_S, SOON, UNQUEUED, Conversation, session_of
from qwen_vl.ui.history import check_paths
from qwen_vl.ui.markup import toast
from qwen_vl.ui.refusals import told
from qwen_vl.ui.strings import label, language_of, say
from qwen_vl.ui.uploads import own_uploads

PAGE = "-page-"  # in the names of pictures that are pages; style.css and adding.js know it too
LOOKS_AT_ONCE = 8
PASTED_CHARS = 10_000_000  # a paste stays text; Send says where it is too long for the model

# What becomes of the box: in the place of files whose paths begin so stand others, or none.
Changes = dict[str, list[str]]


class Opened(TypedDict):
    """The document that was added last, and which of its pages stand in the box."""

    path: str
    name: str
    chosen: str


class Adding:
    """The handlers of one question box."""

    def __init__(self, conversation: Conversation) -> None:
        self.conversation = conversation
        self.settings = conversation.settings

    def look(self, box: dict[str, Any] | None, request: gr.Request) -> tuple[Any, Any, Any]:
        """The box as the browser sends it -> (changes as JSON, the field of pages, document)."""
        lang, session = language_of(request), session_of(request)
        changes: Changes = {}
        shown: tuple[Any, Any] = gr.skip(), gr.skip()
        for file in (box or {}).get("files") or []:
            path = Path(file["path"])
            name = file.get("orig_name") or path.name
            try:
                check_paths([str(path)], Path(get_upload_folder()))
                if _is_document(path):
                    document = read_pages(path, self.settings)
                    changes[str(path)] = self._written(path, document)
                    shown = self._shown(path, name, document, lang)
                else:
                    self._check_picture(session, path)
            except (Busy, Abandoned):  # says nothing about the file
                continue
            except UserError as error:
                changes[str(path)] = []
                text = say("file_refused", lang, name=name, why=told(error, lang))
                gr.Warning(toast(text), duration=REFUSAL_SHOWN_S)
        return json.dumps(changes), *shown

    def choose(
        self, chosen: str, opened: Opened | None, request: gr.Request
    ) -> tuple[Any, Any, Any]:
        """Other pages of the document -> as `look`."""
        if opened is None or chosen.strip() == opened["chosen"]:
            return "{}", gr.skip(), gr.skip()
        lang, path = language_of(request), Path(opened["path"])
        try:
            document = read_pages(path, self.settings, chosen)
            changes = {str(path): self._written(path, document)}
        except UserError as error:
            gr.Warning(toast(told(error, lang)), duration=REFUSAL_SHOWN_S)
            return "{}", opened["chosen"], gr.skip()
        return json.dumps(changes), *self._shown(path, opened["name"], document, lang)

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

    def _shown(self, path: Path, name: str, document: Document, lang: str) -> tuple[Any, Opened]:
        chosen = as_ranges([page.number for page in document.pages])
        most = self.settings.max_document_pages
        words = say("pages_of", lang, name=name, count=document.page_count, most=most)
        field = gr.Textbox(chosen, label=words, visible=True)
        return field, Opened(path=str(path), name=name, chosen=chosen)

    def _written(self, path: Path, document: Document) -> list[str]:
        """The pages as files beside the document, which count as uploads do."""
        files = {
            path.with_name(f"{path.name}{PAGE}{page.number}.jpg"): page.picture.jpeg
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


def lay_out_pages() -> gr.Textbox:
    """The field that says which pages of a document are asked about."""
    return gr.Textbox(label=label("pages"), visible=False, max_lines=1, elem_id="pages")


def wire(adding: Adding, box: gr.MultimodalTextbox, pages: gr.Textbox | None = None) -> None:
    """`pages` is missing where no documents are offered: of one, the first pages would count."""
    changes = gr.Textbox(visible=False)
    opened = gr.State(None)
    field = gr.Textbox(visible=False) if pages is None else pages
    found = [changes, field, opened]
    put: dict[str, Any] = {"js": "(changes, box) => adding.merged(changes, box)", **SOON}
    looked = {"concurrency_limit": LOOKS_AT_ONCE, "trigger_mode": "multiple", **QUIET}
    # Gradio tells of every key that is pressed; the script knows which files are new.
    look = gr.Button(elem_id=f"look-{box.elem_id}")
    seen = f"(box) => adding.seen(box, {json.dumps(box.elem_id)})"
    box.change(None, box, None, js=seen, **UNQUEUED)
    look.click(adding.look, box, found, preprocess=False, **looked).then(
        None, [changes, box], box, **put
    )
    if pages is None:
        return
    gr.on([pages.submit, pages.blur], adding.choose, [pages, opened], found, **SOON).then(
        None, [changes, box], box, **put
    )
