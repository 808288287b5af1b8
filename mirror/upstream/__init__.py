"""One registry as a client sees it: transport, tokens, redirects, endpoints in order."""
