"""What is durable of a run, live or ended: published parts and the logs of the journal."""
