"""What an engine says of itself while it loads and runs, in Chinese. Knows texts only."""

from __future__ import annotations

_BUNDLED = (
    "This is {b}, a small demo model that comes with the app. It was trained on simple shapes, "
    "printed text, charts, invoices and app screens, is sometimes wrong even there, and knows "
    "nothing else."
)
_BUNDLED_ZH = (
    "这是随应用附带的小型演示模型 {b}，只学过简单图形、印刷文字、图表、发票和应用界面；"
    "即使在这些方面有时也会出错，其他内容一概不懂。"
)

# English template -> Chinese one. {a}, {b} stand for what differs.
ENGINE_ZH = {
    _BUNDLED: _BUNDLED_ZH,
    "{a} is not on this machine and the model hub cannot be reached. " + _BUNDLED: (
        "本机没有 {a}，也无法连接模型库。" + _BUNDLED_ZH
    ),
    "Starting": "正在启动",
    "Reading the model": "正在读取模型",
    "Looking for the servers": "正在寻找服务器",
    "Judging what the layers are given": "正在评估各层的输入",
    "Measuring how fast pictures are read": "正在测量读取图片的速度",
    "Another start is rounding the same weights": "另一个启动进程正在量化相同的权重",
    "Keeping the rounded weights for the next start": "正在保存量化后的权重，供下次启动使用",
    "Looking for the model hub": "正在连接模型库",
    "Looking for {a}": "正在查找 {a}",
    "Downloading {a} from ModelScope": "正在从 ModelScope 下载 {a}",
    "Downloading {a}": "正在下载 {a}",
    "The inference thread has died ({a}): restart the server.": (
        "推理线程已终止（{a}）：请重启服务器。"
    ),
}
