"""The words of what is added to a question: files, documents, clips. In English and Chinese."""

from __future__ import annotations

ADDING_EN = {
    "pages": "Pages",
    "pages_of": "Pages of “{name}”: {count} in all, up to {most} at once",
    "file_refused": "“{name}” was not added. {why}",
    "pages_coming": "The pages of the document are still being read: wait a moment.",
}
ADDING_ZH = {
    "pages": "页码",
    "pages_of": "“{name}”的页码：共 {count} 页，一次最多 {most} 页",
    "file_refused": "未添加“{name}”。{why}",
    "pages_coming": "仍在读取文档的页面：请稍候。",
}

# What the page's scripts say.
ADDING_SCRIPT_EN = {
    "file_kind": "“{name}” was not added: pictures, PDFs and clips are read here.",
    "file_large": "“{name}” was not added: it has more than {mb} MB.",
    "file_only_one": "Only “{name}” was added: here is one clip at a time.",
    "file_nowhere": "Nothing can be added here now.",
    "for_video": "“{name}” is a clip.",
    "for_chat": "“{name}” belongs to a chat.",
    "open_video": "Open in the Video tab",
    "open_chat": "Add to the chat",
    "enlarge": "Enlarge picture {n}",
}
ADDING_SCRIPT_ZH = {
    "file_kind": "未添加“{name}”：此处可读取图片、PDF 和视频。",
    "file_large": "未添加“{name}”：文件超过 {mb} MB。",
    "file_only_one": "只添加了“{name}”：此处一次一个视频。",
    "file_nowhere": "现在不能在此添加文件。",
    "for_video": "“{name}”是视频。",
    "for_chat": "“{name}”适合放入对话。",
    "open_video": "在“视频”页打开",
    "open_chat": "放入对话",
    "enlarge": "放大图{n}",
}
ADDING_WORDS = {"en": ADDING_SCRIPT_EN, "zh": ADDING_SCRIPT_ZH}
