"""How people ask: paraphrases of every question, in English and Chinese.

Data only. `{x}` and `{t}` stand for a name and a time. Knows nothing of answers or pictures.
"""

QUESTIONS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "describe": (
        (
            "Describe the image.",
            "Describe this image.",
            "Describe this picture.",
            "Describe the image in detail.",
            "What is in this image?",
            "What do you see?",
            "What can you see in the picture?",
            "What does this picture show?",
            "Tell me about this image.",
            "Caption this image.",
            "What's this?",
            "describe",
            "Please describe what you see in the image.",
        ),
        (
            "请描述这张图片",
            "请描述这张图片。",
            "描述这张图片。",
            "描述一下这张图。",
            "图中有什么？",
            "这张图片里有什么？",
            "你看到了什么？",
            "这是什么？",
            "请详细描述图片内容。",
        ),
    ),
    "count": (
        (
            "How many shapes are there?",
            "How many shapes are in the image?",
            "Count the shapes.",
            "How many shapes can you see?",
            "What is the number of shapes?",
            "How many objects are there?",
        ),
        (
            "有几个图形？",
            "图中有多少个图形？",
            "数一数有几个图形。",
            "一共有几个图形？",
            "图里有几个物体？",
        ),
    ),
    "count_kind": (
        ("How many {x}s are there?", "Count the {x}s.", "How many {x}s do you see?"),
        ("有几个{x}？", "图中有多少个{x}？", "数一数{x}。"),
    ),
    "at": (
        (
            "What is {x}?",
            "What is located {x}?",
            "What shape is {x}?",
            "Which shape is {x}?",
            "What do you see {x}?",
        ),
        ("{x}是什么？", "{x}有什么？", "{x}的图形是什么？"),
    ),
    "colour": (
        (
            "What colour is the {x}?",
            "What color is the {x}?",
            "What is the color of the {x}?",
            "Which colour does the {x} have?",
        ),
        ("{x}是什么颜色？", "{x}的颜色是什么？", "{x}是什么颜色的？"),
    ),
    "where": (
        ("Where is the {x}?", "Where can I find the {x}?", "What is the position of the {x}?"),
        ("{x}在哪里？", "{x}在什么位置？", "{x}在哪儿？"),
    ),
    "exists": (
        ("Is there a {x}?", "Do you see a {x}?", "Can you see a {x} in the image?"),
        ("有{x}吗？", "图中有{x}吗？", "能看到{x}吗？"),
    ),
    "locate": (
        (
            "Locate the {x}. Report bbox coordinates in JSON format.",
            "Locate the {x}.",
            "Locate the {x} and output its bbox in JSON.",
            "Give the bounding box of the {x}.",
            "Find the {x} and report its bounding box in JSON format.",
            "Detect the {x}.",
            "Where is the {x}? Answer with a bbox in JSON.",
        ),
        (
            "定位{x}，以JSON格式输出坐标。",
            "请定位{x}。",
            "框出{x}。",
            "请给出{x}的边界框。",
            "找出{x}，用JSON格式输出bbox坐标。",
        ),
    ),
    "locate_all": (
        (
            "Locate all shapes. Report bbox coordinates in JSON format.",
            "Locate every object in the image. Report bbox coordinates in JSON format.",
            "Detect all objects.",
            "Locate every shape.",
            "Give the bounding boxes of all shapes in JSON.",
        ),
        (
            "定位所有图形，以JSON格式输出坐标。",
            "检测图中所有物体。",
            "框出所有图形。",
            "请给出所有图形的边界框。",
        ),
    ),
    "point": (
        (
            "Point to the {x}.",
            "Point to the {x}. Report point coordinates in JSON format.",
            "Give the point_2d of the {x} in JSON.",
        ),
        ("指出{x}的位置，以JSON格式输出点坐标。", "请指向{x}。", "用点标出{x}。"),
    ),
    "read": (
        (
            "Extract all the text.",
            "Extract all text.",
            "Extract the text from the image.",
            "Read the text.",
            "Read all the text in the image.",
            "What does the text say?",
            "What is written here?",
            "Transcribe the text.",
            "OCR",
            "Please output only the text content from the image without any additional "
            "descriptions.",
        ),
        (
            "提取图中的所有文字",
            "提取图中的所有文字。",
            "提取所有文字。",
            "读出图中的文字。",
            "图中写了什么？",
            "识别图片中的文字。",
            "上面写着什么？",
        ),
    ),
    "line_count": (
        ("How many lines of text are there?", "How many lines are there?", "Count the lines."),
        ("有几行文字？", "图中有多少行文字？"),
    ),
    "line_first": (
        ("What does the first line say?", "Read the first line.", "What is the first line?"),
        ("第一行写了什么？", "第一行是什么？", "读第一行。"),
    ),
    "line_last": (
        ("What does the last line say?", "Read the last line.", "What is the last line?"),
        ("最后一行写了什么？", "最后一行是什么？", "读最后一行。"),
    ),
    "invoice": (
        (
            "Extract the invoice fields as JSON.",
            "Extract the fields as JSON.",
            "Extract the invoice fields.",
            "Read the invoice and answer in JSON.",
            "Give me the invoice data as JSON.",
            "Extract the key information as JSON.",
            "Parse this invoice into JSON.",
        ),
        (
            "以JSON格式提取发票字段。",
            "提取发票字段，输出JSON。",
            "提取发票信息，用JSON格式输出。",
            "请把这张发票转成JSON。",
            "提取发票的关键信息。",
        ),
    ),
    "highest": (
        (
            "Which bar is the highest?",
            "Which bar is the tallest?",
            "Which one is the highest?",
            "Which has the highest value?",
            "What is the maximum?",
            "Which bar is the largest?",
        ),
        ("哪个柱子最高？", "哪一个最高？", "最高的是哪个？", "哪个值最大？"),
    ),
    "lowest": (
        (
            "Which bar is the lowest?",
            "Which bar is the shortest?",
            "Which one is the lowest?",
            "Which has the lowest value?",
            "What is the minimum?",
            "Which bar is the smallest?",
        ),
        ("哪个柱子最低？", "哪一个最低？", "最低的是哪个？", "哪个值最小？"),
    ),
    "trend": (
        (
            "What is the trend?",
            "Describe the trend.",
            "Is the trend rising or falling?",
            "How do the values change?",
        ),
        ("趋势是什么？", "走势如何？", "数值是上升还是下降？", "趋势怎么样？"),
    ),
    "bars": (
        ("How many bars are there?", "Count the bars.", "How many bars does the chart have?"),
        ("有几个柱子？", "图表有多少个柱子？"),
    ),
    "bar_labels": (
        ("List the labels of the bars.", "What are the bars called?", "Which bars are there?"),
        ("列出柱子的标签。", "有哪些柱子？"),
    ),
    "value": (
        ("What is the value of {x}?", "How much is {x}?", "What value does {x} have?"),
        ("{x}的值是多少？", "{x}是多少？"),
    ),
    "screen": (
        (
            "Which elements can be clicked?",
            "What can be clicked?",
            "Which elements can I click?",
            "List the buttons and fields.",
            "What can I click on this screen?",
            "List the interactive elements.",
        ),
        (
            "哪些元素可以点击？",
            "可以点击什么？",
            "列出按钮和输入框。",
            "这个界面上有哪些可以点击的元素？",
        ),
    ),
    "buttons": (
        ("Which buttons are there?", "List the buttons.", "What are the buttons?"),
        ("有哪些按钮？", "列出按钮。"),
    ),
    "fields": (
        ("Which fields are there?", "List the fields.", "Where can I type?"),
        ("有哪些输入框？", "列出输入框。"),
    ),
    "screen_title": (
        ("What is the title of the screen?", "What is this screen called?"),
        ("界面的标题是什么？", "这个界面叫什么？"),
    ),
    "differ": (
        (
            "What differs?",
            "What is different?",
            "What changed?",
            "What changed between the two pictures?",
            "Compare the two images.",
            "What is the difference between the images?",
            "Find the difference.",
        ),
        (
            "有什么不同？",
            "两张图有什么区别？",
            "有什么变化？",
            "比较这两张图片。",
            "找出不同之处。",
        ),
    ),
    "timeline": (
        (
            "Summarise as a timeline.",
            "Summarize the video as a timeline.",
            "Give me a timeline.",
            "List the events with their times.",
            "What happens when?",
            "Summarise the video as a timeline of events.",
            "Describe the video.",
            "What happens in the video?",
            "What happens in this clip?",
        ),
        (
            "用时间线总结视频。",
            "给出时间线。",
            "列出事件和时间。",
            "请按时间顺序总结视频。",
            "描述这个视频。",
            "视频里发生了什么？",
        ),
    ),
    "at_time": (
        (
            "What is there at {t} seconds?",
            "What is shown at {t} seconds?",
            "What do you see at {t} s?",
            "Which shapes are there at {t} seconds?",
        ),
        ("{t} 秒时有什么？", "第 {t} 秒有什么？", "在 {t} 秒时能看到什么？"),
    ),
    "event_at": (
        ("What happens at {t} seconds?", "What changes at {t} s?"),
        ("{t} 秒时发生了什么？", "第 {t} 秒有什么变化？"),
    ),
    "when": (
        ("When does the {x} appear?", "At what time does the {x} appear?"),
        ("{x}什么时候出现？", "{x}在第几秒出现？"),
    ),
}
FIELD_QUESTIONS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "invoice_no": (
        ("What is the invoice number?", "Which invoice number is it?"),
        ("发票号是多少？", "发票号码是什么？"),
    ),
    "date": (
        ("What is the invoice date?", "What is the date?"),
        ("发票日期是什么？", "日期是哪天？"),
    ),
    "due_date": (
        ("What is the due date?", "When is it due?"),
        ("到期日是什么？", "什么时候到期？"),
    ),
    "customer": (
        ("Who is the customer?", "What is the customer's name?"),
        ("客户是谁？", "客户叫什么？"),
    ),
    "tax": (("How much is the tax?", "What is the tax?"), ("税额是多少？", "税是多少？")),
    "total": (
        ("What is the total?", "How much is the total?", "How much do I have to pay?"),
        ("总额是多少？", "总计多少？", "要付多少钱？"),
    ),
}
FIELD_ANSWERS = {
    "invoice_no": ("The invoice number is {x}.", "发票号是 {x}。"),
    "date": ("The date is {x}.", "日期是 {x}。"),
    "due_date": ("The due date is {x}.", "到期日是 {x}。"),
    "customer": ("The customer is {x}.", "客户是 {x}。"),
    "tax": ("The tax is {x}.", "税额是 {x}。"),
    "total": ("The total is {x}.", "总额是 {x}。"),
}
OFF_TOPIC = (
    (
        "Hello!",
        "Hi",
        "Hello",
        "hey there",
        "Who are you?",
        "What are you?",
        "What can you do?",
        "Which model are you?",
        "How are you?",
        "Thank you!",
        "Tell me a joke.",
        "Write a poem about the sea.",
        "What is 12 + 7?",
        "What is 3 times 8?",
        "How is the weather today?",
        "Write a Python function that sorts a list.",
        "What is the capital of France?",
        "Who won the game last night?",
        "Translate this sentence into German.",
        "Explain quantum physics.",
        "What time is it?",
        "Give me a recipe for pizza.",
        "Tell me about the history of Rome.",
        "Are you a human?",
        "Help",
    ),
    (
        "你好！",
        "你好",
        "你是谁？",
        "你能做什么？",
        "你是什么模型？",
        "谢谢！",
        "讲个笑话。",
        "写一首关于大海的诗。",
        "12 加 7 等于多少？",
        "今天天气怎么样？",
        "写一个排序函数。",
        "法国的首都是哪里？",
        "现在几点了？",
        "解释一下量子物理。",
        "帮我写一篇文章。",
        "你是人吗？",
    ),
)
SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "You are a helpful assistant.",
    "You are a helpful vision assistant.",
    "Answer briefly.",
    "Be concise.",
    "You are Qwen-VL, a helpful assistant.",
    "你是一个有用的助手。",
    "请简短回答。",
)
