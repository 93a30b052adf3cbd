"""Chat templates with tools in the forms of Qwen3-VL (JSON) and Qwen3.5 (XML), made for tests."""

_SHOWN = """{%- macro shown(content) -%}
{%- if content is string -%}{{ content }}
{%- else -%}{%- for part in content -%}
{%- if part.type == 'image' -%}<|vision_start|><|image_pad|><|vision_end|>
{%- elif part.text is defined -%}{{ part.text }}{%- endif -%}
{%- endfor -%}{%- endif -%}
{%- endmacro -%}"""
_TOOLS = """{%- if tools -%}{{- '<|im_start|>system\\n# Tools\\n<tools>' -}}
{%- for tool in tools -%}{{- '\\n' + (tool | tojson) -}}{%- endfor -%}
{{- '\\n</tools><|im_end|>\\n' -}}{%- endif -%}"""
_TURNS = """{%- for message in messages -%}
{%- if message.role == 'tool' -%}
{{- '<|im_start|>user\\n<tool_response>\\n' -}}{{ shown(message.content) }}
{{- '\\n</tool_response><|im_end|>\\n' -}}
{%- else -%}
{{- '<|im_start|>' + message.role + '\\n' -}}{{ shown(message.content) }}
{%- for call in message.tool_calls or [] -%}CALL{%- endfor -%}
{{- '<|im_end|>\\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"""
_JSON_CALL = """{{- '\\n<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' -}}
{{- call.function.arguments | tojson -}}{{- '}\\n</tool_call>' -}}"""
_XML_CALL = """{{- '\\n<tool_call>\\n<function=' + call.function.name + '>\\n' -}}
{%- for key, value in call.function.arguments | items -%}
{{- '<parameter=' + key + '>\\n' -}}
{{- value if value is string else value | tojson -}}{{- '\\n</parameter>\\n' -}}
{%- endfor -%}{{- '</function>\\n</tool_call>' -}}"""

JSON_TEMPLATE = _SHOWN + _TOOLS + _TURNS.replace("CALL", _JSON_CALL)
XML_TEMPLATE = _SHOWN + _TOOLS + _TURNS.replace("CALL", _XML_CALL)
