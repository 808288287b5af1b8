"""The other side: how container clients on this machine are told of a mirror."""
