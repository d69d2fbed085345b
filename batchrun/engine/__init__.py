"""Orchestration: the attempt loop, the gate, the feed and the drain. No IO of its own."""
