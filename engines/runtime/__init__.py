"""How a release is run: one file per runtime, and the loader that picks one."""
