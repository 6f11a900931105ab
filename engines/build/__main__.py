"""`python -m engines.build`."""

from engines.build.cli import app

if __name__ == "__main__":  # drawing pictures starts processes, and those import this module
    app(prog_name="python -m engines.build")
