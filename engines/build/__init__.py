"""How an engine is made: catalogue → pairs → training → evaluation → export → release. Needs the `train` extra."""
