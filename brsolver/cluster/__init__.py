"""A cluster as a router knows it: state, forecasts, view, decisions, and the session over them."""
