"""Product catalogues: a folder of real photos, and a rendered one that needs no data. Pillow and numpy, no torch."""
