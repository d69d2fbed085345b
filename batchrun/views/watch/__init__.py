"""Views that go on for as long as a run does: in the terminal, in a browser, for Prometheus."""
