"""What a scorer must not load."""

from __future__ import annotations

import subprocess
import sys

LOADED = """
import pkgutil, sys, importlib
import engines, streamer
for package in (engines, streamer):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.startswith("engines.build") and not module.name.endswith("__main__"):
            importlib.import_module(module.name)
unwanted = {"torch", "transformers", "onnx", "onnx_ir", "onnxscript", "cuda", "tensorrt", "opentelemetry"}
print(*sorted(unwanted & set(sys.modules)))
"""


def test_runtime_whole_imports_no_torch() -> None:
    """Every module of the runtime, imported in a fresh interpreter, leaves out what training and tracing need."""
    done = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
