"""What a visitor is refused, in the language of the page.

Refusals are raised in English, everywhere below the page; here are their templates in Chinese.
Knows texts only. A refusal without a template is shown as it is.
"""

from __future__ import annotations

import re
from functools import lru_cache

from qwen_vl.ui.engine_words import ENGINE_ZH

# English template -> Chinese one. {a}, {b} stand for what differs.
_ZH = {
    # conversations
    "{a} messages are more than the limit of {b}: start a new conversation.": (
        "共 {a} 条消息，超过上限 {b} 条：请开始新对话。"
    ),
    "{a} characters are more than the limit of {b}: shorten the text or start a new "
    "conversation.": "共 {a} 个字符，超过上限 {b} 个：请缩短文字或开始新对话。",
    "{a} pictures are more than the limit of {b}: use fewer pictures or frames, or start a new "
    "conversation.": "共 {a} 张图片，超过上限 {b} 张：请减少图片或帧，或开始新对话。",
    "The conversation has {a} tokens, more than the limit of {b}: use fewer or smaller pictures "
    "(image detail), or start a new conversation.": (
        "对话共 {a} 个词元，超过上限 {b} 个：请减少图片、降低精细度，或开始新对话。"
    ),
    "The conversation is empty: send at least one user message.": "对话为空：请先输入问题。",
    "The last message is empty: write a question or add a picture.": (
        "最后一条消息为空：请输入问题或添加图片。"
    ),
    # engines
    "There was not enough memory for this answer: use fewer or smaller pictures (image detail), "
    "or start a new conversation.": "内存不足，无法回答：请减少图片、降低精细度，或开始新对话。",
    "The model failed on this request. The server's log says why.": (
        "模型处理此请求时出错，原因已写入服务器日志。"
    ),
    "{a} requests are waiting already, no more are taken: try again in {b} seconds.": (
        "已有 {a} 个请求在等待，暂不接受新请求：请在 {b} 秒后重试。"
    ),
    "{a} answers are being written: try again later.": "正在生成 {a} 个回答：请稍后重试。",
    "Too many people are asking: try again in a moment.": "提问的人太多：请稍后重试。",
    "The answer broke off before its end: try again.": "回答中途中断：请重试。",
    "The server is shutting down.": "服务器正在关闭。",
    "{a} is still loading ({b}): try again in a moment.": "{a} 仍在加载（{b}）：请稍后重试。",
    "This model reads text only: remove the pictures, or start the server with a vision model such "
    "as Qwen/Qwen3-VL-2B-Instruct.": "此模型只能读取文字：请移除图片，或改用视觉模型启动服务器。",
    "This model reads text only: remove the pictures.": "此模型只能读取文字：请移除图片。",
    "This picture cannot be read by the model: {a}": "模型无法读取此图片：{a}",
    "The server behind this one broke off its answer: try again.": "后端服务器中断了回答：请重试。",
    "The server behind this one broke off its answer: {a}": "后端服务器中断了回答：{a}",
    "The server behind this one could not answer: {a}": "后端服务器无法回答：{a}",
    "The server behind this one is not ready: {a}": "后端服务器尚未就绪：{a}",
    "The servers behind this one are busy: try again later.": "后端服务器繁忙：请稍后重试。",
    "The servers behind this one are being looked for: try again soon.": (
        "正在寻找后端服务器：请稍后重试。"
    ),
    "No server behind this one could answer: try again later{a}.": (
        "没有后端服务器可以回答：请稍后重试。"
    ),
    "No replica could answer: try again later.": "没有副本可以回答：请稍后重试。",
    # files
    "That file was not uploaded here: add it again.": "该文件不是在此上传的：请重新添加。",
    "The picture is no longer on the server. Add it again.": "服务器上已没有该图片：请重新添加。",
    "The video is no longer on the server. Add it again.": "服务器上已没有该视频：请重新添加。",
    "The picture is incomplete: its end is missing. Save or download it again, then send the new "
    "file.": "图片不完整，缺少结尾：请重新保存或下载后再发送。",
    "The picture is damaged and cannot be decoded. Save or download it again, then send the new "
    "file.": "图片已损坏，无法解码：请重新保存或下载后再发送。",
    "The picture is damaged: reading it ended the decoder. Save it again with another program.": (
        "图片已损坏，无法读取：请用其他程序重新保存。"
    ),
    "The video is damaged: reading it ended the decoder. Save it again with another program.": (
        "视频已损坏，无法读取：请用其他程序重新保存。"
    ),
    "{a} is not read here. Save the picture as PNG or JPEG and send that.": (
        "此处不能读取这种格式（{a}）：请存为 PNG 或 JPEG 后发送。"
    ),
    "This is an SVG drawing. Export it as PNG and send that.": (
        "这是 SVG 图形：请导出为 PNG 后发送。"
    ),
    "This is a HEIC photo. Save it as JPEG and send that.": "这是 HEIC 照片：请存为 JPEG 后发送。",
    "This is a video, not a picture, whatever its name says. Add it as a video.": (
        "这是视频而不是图片：请作为视频添加。"
    ),
    "This is not a picture that can be read here. Send {a}.": "此处不能读取该图片：请发送 {a}。",
    "This is not a video that can be read here. Use {a}.": "此处不能读取该视频：请使用 {a}。",
    "This is a picture that does not move, not a video. Add it as a picture.": (
        "这是静止的图片而不是视频：请作为图片添加。"
    ),
    "The picture file is larger than {a} MB. Send a smaller or shorter one.": (
        "图片文件超过 {a} MB：请发送更小的文件。"
    ),
    "The video file is larger than {a} MB. Send a smaller or shorter one.": (
        "视频文件超过 {a} MB：请发送更小或更短的视频。"
    ),
    "The {a} file is empty. Choose the file again.": "文件是空的：请重新选择。",
    "The {a} has no pixels. Try another file.": "文件中没有像素：请换一个文件。",
    "The {a} has more than {b} million pixels. Scale it down and send it again.": (
        "画面超过 {b} 百万像素：请缩小后重新发送。"
    ),
    "The {a} is {b} pixels; the model takes at most {c} times as long as wide. Crop it or cut it "
    "into parts.": "画面为 {b} 像素；长宽比最多为 {c}：请裁剪或分成几部分。",
    "The JPEG is stored in more than {a} passes. Save it again.": (
        "该 JPEG 的扫描次数超过 {a}：请重新保存。"
    ),
    "Decoding the {a} needs more memory than is given to one. Scale it down.": (
        "解码所需内存超过上限：请缩小后重试。"
    ),
    "Decoding the {a} takes longer than {b} seconds: send a {c}.": (
        "解码超过 {b} 秒：请发送更小或更短的文件。"
    ),
    "Many pictures and videos are being read. Try again in a few seconds.": (
        "正在读取许多图片和视频：请几秒后重试。"
    ),
    "The video is longer than {a} seconds. Cut it and send a part.": (
        "视频超过 {a} 秒：请剪辑后发送一部分。"
    ),
    "The video has more than {a} streams. Save it anew with one.": (
        "视频的流超过 {a} 个：请重新保存为单个流。"
    ),
    "The codec of this video is not read here. Save it as MP4 with H.264 and send that.": (
        "此处不能读取该视频的编码：请存为 H.264 的 MP4 后发送。"
    ),
    "The colours of this video ({a}) are not read here. Save it as MP4 with H.264 and send that.": (
        "此处不能读取该视频的色彩（{a}）：请存为 H.264 的 MP4 后发送。"
    ),
    "The video is broken or incomplete: not one picture could be decoded. Play it on your computer "
    "to check it, then save it as {a} and send that.": (
        "视频损坏或不完整，一帧也无法解码：请先在电脑上播放确认，再存为 {a} 后发送。"
    ),
    "This file has sound and no pictures. Send a video.": "该文件只有声音没有画面：请发送视频。",
    "The video has no pictures in it: its recording may have been broken off. Send another one.": (
        "视频中没有画面，录制可能中断了：请换一个视频。"
    ),
    "The video is encrypted, so it cannot be read. Send a copy without protection.": (
        "视频已加密，无法读取：请发送无保护的副本。"
    ),
    "The document is no longer on the server. Add it again.": "服务器上已没有该文档：请重新添加。",
    "This is no document that can be read here. Send a PDF.": "此处不能读取该文档：请发送 PDF。",
    "The document is damaged: reading it ended the decoder. Save it again with another program.": (
        "文档已损坏，无法读取：请用其他程序重新保存。"
    ),
    "The document is damaged and cannot be read. Save it as PDF again and send the new file.": (
        "文档已损坏，无法读取：请重新存为 PDF 后发送。"
    ),
    "The document is protected by a password. Send a copy without one.": (
        "文档受密码保护：请发送无密码的副本。"
    ),
    "The document has no pages. Send another one.": "文档没有页面：请换一个。",
    "The document file is larger than {a} MB. Send a smaller or shorter one.": (
        "文档文件超过 {a} MB：请发送更小的文件。"
    ),
    "Pages are written as in 1-3, 7.": "页码请写成 1-3, 7 的形式。",
    "There is no such page: the document has {a}.": "没有这一页：文档共 {a} 页。",
    "At most {a} pages of a document are taken at once. Choose fewer.": (
        "一次最多取文档的 {a} 页：请少选几页。"
    ),
    "Page {a} of the document is more than 5 metres long. Leave it out.": (
        "文档第 {a} 页长度超过 5 米：请不要选它。"
    ),
    "There is no room for uploads now: try again later.": "上传空间已满：请稍后重试。",
    "The number of frames must be at least 1.": "帧数至少为 1。",
    "The seconds between frames must be more than 0.": "帧间隔必须大于 0 秒。",
    "Something broke inside the server; its log has the details.": "服务器内部出错，详情见其日志。",
}
_SLOT = re.compile(r"\{(\w)\}")


def told(refusal: object, lang: str) -> str:
    """The text of a refusal, or of what an engine says of itself, in `lang` ("en" or "zh")."""
    text = str(refusal)
    if lang != "zh":
        return text
    for pattern, chinese in _patterns():
        if match := pattern.fullmatch(text):
            return chinese.format(**match.groupdict())
    return text


@lru_cache(maxsize=1)
def _patterns() -> list[tuple[re.Pattern[str], str]]:
    # The longest first: "{a} is not read here" would fit what others say more exactly.
    ordered = sorted((_ZH | ENGINE_ZH).items(), key=lambda item: -len(_SLOT.sub("", item[0])))
    return [(re.compile(_pattern(english), re.DOTALL), chinese) for english, chinese in ordered]


def _pattern(template: str) -> str:
    pieces = _SLOT.split(template)  # text, slot, text, slot, ...
    return "".join(
        f"(?P<{piece}>.*)" if i % 2 else re.escape(piece) for i, piece in enumerate(pieces)
    )
