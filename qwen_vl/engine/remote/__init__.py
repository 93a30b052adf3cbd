"""The engine over another server that speaks the OpenAI API. Never imports torch."""
