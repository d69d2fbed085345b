"""JSON Schema: what answers are held to."""
