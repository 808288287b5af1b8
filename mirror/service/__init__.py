"""The mirror's decisions in the words of the specification. No HTTP."""
