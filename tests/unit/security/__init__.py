"""Every case of the threat model, by its name, against a whole mirror over sockets."""
