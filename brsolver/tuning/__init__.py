"""A search for the router and the settings of a server, on its own traffic."""
