"""Every case of PROTOCOL section 5.1, by its name, against a whole mirror over sockets."""
