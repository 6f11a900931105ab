"""The stream: product updates in, mismatch alerts out. Never imports torch or transformers."""

__version__ = "0.1.0"
