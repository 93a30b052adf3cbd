"""The engine over a model in this process. One thread owns the model."""
