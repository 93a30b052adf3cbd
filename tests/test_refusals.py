"""Every refusal that a visitor of the page can meet is said in Chinese, too."""

from __future__ import annotations

import ast
import io
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

import qwen_vl
from qwen_vl import errors
from qwen_vl.config import Settings
from qwen_vl.conversation import check_conversation
from qwen_vl.engine.model import checkpoint
from qwen_vl.errors import UserError
from qwen_vl.media.pictures import open_image
from qwen_vl.schema import ImagePart, Message, TextPart
from qwen_vl.ui.refusals import told

ROOT = Path(qwen_vl.__file__).parent
ROOMS = (  # what raises while the page reads, counts and answers
    *("conversation.py", "media", "ui/history.py"),
    *("engine/answer.py", "engine/bridge.py", "engine/local/failures.py"),
    *("engine/local/scheduler.py", "engine/model/prompt.py", "engine/remote/engine.py"),
)
ELSEWHERE = re.compile(  # what only programs meet, and what the page's own controls prevent
    r"'|data:|system message|last message (must|calls)|Pictures can only|method|chat template|"
    r"no raw text|log probabilities"
)
CHINESE = re.compile(r"[\u4e00-\u9fff]")


def raised() -> Iterator[str]:
    """The texts in the source of these rooms' errors, a 7 in the place of what differs."""
    kinds = {name for name in dir(errors) if name[0].isupper()}
    for room in ROOMS:
        path = ROOT / room
        for file in [path] if path.is_file() else sorted(path.rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if not (isinstance(node, ast.Call) and getattr(node.func, "id", "") in kinds):
                    continue
                if node.args and (text := written(node.args[0])) and not ELSEWHERE.search(text):
                    yield text


def written(node: ast.expr) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        parts = (part.value if isinstance(part, ast.Constant) else "7" for part in node.values)
        return "".join(str(part) for part in parts)
    return ""


def test_every_refusal_of_the_page_has_its_chinese() -> None:
    texts = sorted(set(raised()))
    assert len(texts) > 20
    assert [text for text in texts if not CHINESE.search(told(text, "zh"))] == []


def steps() -> Iterator[str]:
    """What the source of the engines says while a model loads."""
    for file in sorted((ROOT / "engine").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and node.args:
                name = getattr(node.func, "id", "") or getattr(node.func, "attr", "")
                if name.lstrip("_") == "report" and (text := written(node.args[0])):
                    yield text


def test_every_step_of_a_start_has_its_chinese() -> None:
    texts = sorted(set(steps()))
    assert len(texts) > 5
    assert [text for text in texts if not CHINESE.search(told(text, "zh"))] == []


@pytest.mark.parametrize(
    "before", ["", "A/B is not on this machine and the model hub cannot be reached. "]
)
def test_the_bundled_model_says_in_chinese_what_it_is(before: str) -> None:
    notice = before + checkpoint.find(Settings(model="bundled"), lambda *_: None).notice
    assert "qwen3-vl-tiny-demo" in told(notice, "zh")
    assert "small demo" not in told(notice, "zh")


def refusal_of(data: bytes) -> UserError:
    with pytest.raises(UserError) as caught:
        open_image(data, Settings(max_image_megapixels=0.001)).decode()
    return caught.value


def png(size: tuple[int, int]) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, "red").save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    "data",
    [b"", b"hello", b"%PDF-1.4", b"<svg/>", png((2000, 2000)), png((300, 1)), png((30, 30))[:60]],
)
def test_refusals_of_real_files(data: bytes) -> None:
    refusal = refusal_of(data)
    assert told(refusal, "en") == str(refusal)
    assert CHINESE.search(told(refusal, "zh")), refusal


def test_what_differs_is_kept() -> None:
    picture = ImagePart(Image.new("RGB", (8, 8)))
    message = Message("user", (picture, picture, picture, TextPart("?")))
    with pytest.raises(UserError) as caught:
        check_conversation([message], Settings(max_images=2))
    assert told(caught.value, "zh").startswith("共 3 张图片，超过上限 2 张")


def test_what_has_no_chinese_is_said_as_it_is() -> None:
    assert told("Something else.", "zh") == "Something else."
