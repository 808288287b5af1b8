"""A mirror that is killed again and again while it works, and what must hold afterwards."""
