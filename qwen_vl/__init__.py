"""A thin Qwen-VL inference module and the web demo around it."""

__version__ = "0.1.0"
