"""Several processes on the registry port: one knows everything, the others talk to clients."""
