"""Every word the page shows, in English and Chinese.

Fixed labels go through Gradio's I18n and follow the browser's language; sentences made while the
app runs use `say` with the language that the request asks for. Knows nothing of handlers or layout.
"""

from __future__ import annotations

from typing import Any

import gradio as gr

EN = {
    # frame
    "chat_tab": "Chat",
    "video_tab": "Video",
    "settings": "Settings",
    # status
    "state_loading": "loading",
    "state_ready": "ready",
    "state_degraded": "degraded",
    "state_failed": "failed",
    "load_failed": "The model could not be loaded: {detail}",
    "degraded": "Still answering, but: {detail}",
    "text_only": "This model reads text only: pictures and clips are switched off.",
    # sidebar
    "system_prompt": "System prompt",
    "system_hint": "How the model should behave (optional)",
    "temperature": "Temperature",
    "temperature_info": "0 always takes the most likely token",
    "min_p": "Min-p (0 = off)",
    "frequency_penalty": "Frequency penalty",
    "stop": "Stop texts",
    "stop_info": "The answer ends before any of these texts: one on each line",
    "expert": "Expert",
    "top_p": "Top-p",
    "top_k": "Top-k (0 = off)",
    "repetition_penalty": "Repetition penalty",
    "presence_penalty": "Presence penalty",
    "max_new_tokens": "Max new tokens",
    "seed": "Seed (-1 = random)",
    "enable_thinking": "Think first",
    "enable_thinking_info": "Better on hard questions, and slower",
    "reasoning_effort": "Effort of thinking",
    "effort_own": "The model's own",
    "max_image_tokens": "Image detail",
    "max_image_tokens_info": "Tokens per picture: more reads smaller print",
    "reset": "Reset to recommended",
    # chat
    "chat_hint": "Ask, or drop, paste or upload pictures…",
    "chat_hint_text": "Ask a question…",
    "chat_empty": "Add a picture below and ask about it",
    "webcam": "Take a picture with the webcam",
    "new_chat": "New chat",
    "examples": "Examples",
    "busy_here": "An answer is still being written: wait for it or press Stop.",
    "nothing_to_send": "Write a question or add a picture first.",
    "empty_edit": "An empty message cannot be sent: the old one was kept.",
    # answers
    "thinking": "Thinking … {seconds} s",
    "thought": "Thought for {seconds} s",
    "wait_loading": "The model is loading; your question is answered after that. {step}",
    "wait_first": "Waiting for the first word… {seconds} s",
    "stat_ttft": "first token {seconds} s",
    "stat_speed": "{speed} tokens/s",
    "stat_prompt": "{n} prompt tokens",
    "stat_cached": " ({n} reused)",
    "stat_new": "{n} new tokens",
    "end_length": "ended at the limit: raise “Max new tokens” for more",
    "end_timeout": "ended at the time limit",
    "end_repetition": "ended: it only repeated itself",
    "end_cancelled": "stopped",
    "error": "⚠️ Not answered",
    "empty_answer": "The model wrote nothing: try again or ask in other words.",
    "retry_hint": "Press ↻ to try again.",
    "broken": "Something broke inside the app; the cause is in its log.",
    "drawn": "{n} found in the picture",
    # video
    "clip": "Clip",
    "method": "Choose frames by",
    "method_auto": "Auto: what happens",
    "method_interval": "Every N seconds",
    "method_even": "N frames, spread evenly",
    "method_scenes": "Scene changes",
    "every_s": "Seconds between",
    "count": "Number of frames",
    "max_frames": "Frame limit",
    "frame_tokens": "Detail per frame (tokens)",
    "compact": "Compact: two frames share their tokens",
    "compact_info": "Half the cost; Qwen3-VL's own form of a clip",
    "compact_used": "Compact: the frames were read in pairs",
    "extract": "Extract keyframes",
    "frames": "Keyframes (click one to jump there)",
    "use_frames": "Frames the model sees",
    "question": "Ask about the clip…",
    "ask": "Ask",
    "timeline": "Summarise as a timeline",
    "stop_answer": "Stop",
    "jump": "Jump to",
    "video_empty": "Upload a clip, then ask about it",
    "no_clip": "Upload a clip first.",
    "no_frames": "Extract keyframes first, and leave at least one of them in.",
    "no_question": "Write a question about the clip first.",
    "no_number": "A number is missing: fill in every field first.",
    "extracting": "Reading the clip",
    "frames_found": "{n} frames, the last one at {last}, of a clip of {length}, {width}×{height}.",
    "frames_fewer": "You asked for {asked}: nothing new is shown at the other times.",
    "clip_damaged": "Damaged and left out: {stretches}.",
    "clip_examples": "Example clips",
}

ZH = {
    "chat_tab": "对话",
    "video_tab": "视频",
    "settings": "设置",
    "state_loading": "加载中",
    "state_ready": "就绪",
    "state_degraded": "不稳定",
    "state_failed": "失败",
    "load_failed": "模型无法加载：{detail}",
    "degraded": "仍可回答，但：{detail}",
    "text_only": "此模型只能读取文字：图片和视频已停用。",
    "system_prompt": "系统提示词",
    "system_hint": "希望模型如何表现（可不填）",
    "temperature": "温度",
    "temperature_info": "0 表示总是取最可能的词元",
    "min_p": "Min-p（0 为关闭）",
    "frequency_penalty": "频率惩罚",
    "stop": "停止文字",
    "stop_info": "遇到其中任一文字即结束回答：每行一条",
    "expert": "专家设置",
    "top_p": "Top-p",
    "top_k": "Top-k（0 为关闭）",
    "repetition_penalty": "重复惩罚",
    "presence_penalty": "存在惩罚",
    "max_new_tokens": "最多生成词元数",
    "seed": "随机种子（-1 为随机）",
    "enable_thinking": "先思考再回答",
    "enable_thinking_info": "难题答得更好,但更慢",
    "reasoning_effort": "思考强度",
    "effort_own": "模型默认",
    "max_image_tokens": "图片精细度",
    "max_image_tokens_info": "每张图片的词元数：越高越能看清小字",
    "reset": "恢复推荐值",
    "chat_hint": "输入问题，或拖入、粘贴、上传图片…",
    "chat_hint_text": "输入问题…",
    "chat_empty": "在下方放入一张图片并提问",
    "webcam": "用摄像头拍照",
    "new_chat": "新对话",
    "examples": "示例",
    "busy_here": "回答仍在生成：请等待或按“停止”。",
    "nothing_to_send": "请先输入问题或添加图片。",
    "empty_edit": "不能发送空消息：已保留原消息。",
    "thinking": "思考中…… {seconds} 秒",
    "thought": "思考了 {seconds} 秒",
    "wait_loading": "模型正在加载，加载后会回答您的问题。{step}",
    "wait_first": "正在等待第一个字… {seconds} 秒",
    "stat_ttft": "首词元 {seconds} 秒",
    "stat_speed": "{speed} 词元/秒",
    "stat_prompt": "提示 {n} 词元",
    "stat_cached": "（复用 {n}）",
    "stat_new": "新生成 {n} 词元",
    "end_length": "已达上限：可调高“最多生成词元数”",
    "end_timeout": "已达时间上限",
    "end_repetition": "已结束：内容一直重复",
    "end_cancelled": "已停止",
    "error": "⚠️ 没有回答",
    "empty_answer": "模型没有写出内容：请重试或换个问法。",
    "retry_hint": "点击 ↻ 重试。",
    "broken": "应用内部出错，原因已写入日志。",
    "drawn": "在图中找到 {n} 处",
    "clip": "视频",
    "method": "选帧方式",
    "method_auto": "自动",
    "method_interval": "每隔 N 秒",
    "method_even": "均匀 N 帧",
    "method_scenes": "场景切换",
    "every_s": "帧间隔（秒）",
    "count": "帧数",
    "max_frames": "帧数上限",
    "frame_tokens": "每帧精细度（词元）",
    "compact": "紧凑：两帧共用词元",
    "compact_info": "成本减半；Qwen3-VL 自身的视频形式",
    "compact_used": "紧凑形式：每两帧一起读取",
    "extract": "提取关键帧",
    "frames": "关键帧：点击可在视频中定位",
    "use_frames": "交给模型的帧",
    "question": "就视频提问…",
    "ask": "提问",
    "timeline": "总结为时间线",
    "stop_answer": "停止",
    "jump": "跳到",
    "video_empty": "上传视频，然后提问",
    "no_clip": "请先上传视频。",
    "no_frames": "请先提取关键帧，并至少保留一帧。",
    "no_question": "请先输入关于视频的问题。",
    "no_number": "有数字未填写：请先填完每一栏。",
    "extracting": "正在读取视频",
    "frames_found": "共 {n} 帧，最后一帧在 {last}；视频长 {length}，{width}×{height}。",
    "frames_fewer": "您要 {asked} 帧：其余时刻没有新画面。",
    "clip_damaged": "以下片段已损坏，未读取：{stretches}。",
    "clip_examples": "示例视频",
}

WORDS = {"en": EN, "zh": ZH}
I18N = gr.I18n(**{"en": EN, "zh-CN": ZH, "zh-TW": ZH})


def label(key: str) -> Any:
    """A fixed label, translated in the browser."""
    return I18N(key)


def say(key: str, lang: str, **fields: object) -> str:
    """A sentence in `lang` ("en" or "zh")."""
    return WORDS[lang][key].format(**fields)


def language_of(request: gr.Request) -> str:
    """The language that the browser puts first, out of those spoken here.

    Chinese where Gradio speaks it too, so that labels and sentences are in one language.
    """
    wanted = str(request.headers.get("accept-language", "")).lower()
    return "zh" if wanted.startswith(("zh-cn", "zh-tw")) else "en"
