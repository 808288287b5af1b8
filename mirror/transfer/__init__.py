"""The fill: one download of one digest, many readers."""
