"""The model: how it is made (`engines.build`, needs torch) and how it is run (everything else, never imports torch)."""
