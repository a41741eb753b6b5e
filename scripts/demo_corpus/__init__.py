"""The text that the demo model is trained on: generated from templates, the same for the same seed."""
