"""What people mostly ask about pictures: each task has a prompt, sampling of its own, and a schema
where its answer is JSON.

A question is of a task by its words alone, so that Retry, Edit and a reloaded page need not
remember anything. Knows nothing of components.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from qwen_vl import EXAMPLES
from qwen_vl.constraint import Constraint, json_schema
from qwen_vl.sampling import SamplingParams
from qwen_vl.schema import Family
from qwen_vl.ui.presets import STYLED, Style, styled


@dataclass(frozen=True)
class Task:
    """`prompts` by language; what stands in braces is the visitor's to replace.

    `schema` names one of `examples/schemas.json`; "" for none.
    """

    name: str
    prompts: Mapping[str, str]
    style: Style = "precise"
    schema: str = ""
    least_new_tokens: int = 0  # a whole document is longer than a usual answer

    def prompt(self, lang: str) -> str:
        """The words that go into the box."""
        return self.prompts[lang].replace("{", "").replace("}", "")

    def is_asked_by(self, question: str) -> bool:
        """Whether the question begins with the prompt, in any language; more may follow."""
        return any(_begins_with(question.strip(), prompt) for prompt in self.prompts.values())

    def constraint(self, folder: Path = EXAMPLES) -> Constraint | None:
        """What the answer must look like; None where anything goes."""
        schema = _schemas(folder).get(self.schema)
        return json_schema(schema, place="the task's schema") if schema is not None else None

    def shaped(
        self, params: SamplingParams, family: Family, most_new_tokens: int
    ) -> SamplingParams:
        """`params` as this task is best answered by this family.

        What a visitor has set himself stays: only what is recommended anyway gives way.
        """
        usual = [family.preset(has_images=one, thinks=params.thinks) for one in (True, False)]
        untouched = next((one for one in usual if _same(one, params)), None)
        if untouched is not None:
            thinks = family.opens_thought if params.thinks is None else params.thinks
            best = styled(untouched, self.style, thinks)
            params = replace(params, **{name: getattr(best, name) for name in STYLED})
        tokens = params.max_new_tokens
        if tokens == min(usual[0].max_new_tokens, most_new_tokens):
            tokens = max(tokens, min(self.least_new_tokens, most_new_tokens))
        return replace(params, max_new_tokens=tokens, constraint=self.constraint())


TASKS = (
    Task("describe", {"en": "Describe the image.", "zh": "请描述这张图片"}, "balanced"),
    Task(
        "text",
        {"en": "Extract all the text.", "zh": "提取图中的所有文字"},
        least_new_tokens=2048,
    ),
    Task(
        "markdown",
        {
            "en": "Write this document as Markdown. Keep its headings, lists and tables.",
            "zh": "将此文档转写为Markdown，保留标题、列表和表格。",
        },
        least_new_tokens=4096,
    ),
    Task(
        "invoice",
        {"en": "Extract the invoice fields as JSON.", "zh": "以JSON格式提取发票字段。"},
        schema="invoice",
    ),
    Task(
        "chart",
        {"en": "Look at the chart. {Which bar is the highest?}", "zh": "请看图表。{趋势是什么？}"},
    ),
    Task(
        "find",
        {
            "en": "Locate {all shapes}. Report bbox coordinates in JSON format.",
            "zh": "定位{所有图形}，以JSON格式输出坐标。",
        },
        schema="locate",
        least_new_tokens=2048,
    ),
    Task("screen", {"en": "Which elements can be clicked?", "zh": "哪些元素可以点击？"}),
    Task("compare", {"en": "What differs?", "zh": "有什么不同？"}),
    Task(
        "steps",
        {
            "en": "Solve this step by step, and end with the answer: {the problem in the picture}",
            "zh": "请逐步解答，最后给出答案：{图中的问题}",
        },
        "balanced",
        least_new_tokens=2048,
    ),
)


def task_of(question: str) -> Task | None:
    """The task that a question is of; None for a question of the visitor's own."""
    return next((task for task in TASKS if task.is_asked_by(question)), None)


def _same(one: SamplingParams, other: SamplingParams) -> bool:
    return all(getattr(one, name) == getattr(other, name) for name in STYLED)


def _begins_with(question: str, prompt: str) -> bool:
    before, _, rest = prompt.partition("{")
    after = rest.partition("}")[2]
    return question.startswith(before) and after in question[len(before) :]


@cache
def _schemas(folder: Path) -> dict[str, Any]:
    path = folder / "schemas.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
