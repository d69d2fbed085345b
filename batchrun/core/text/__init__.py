"""Text that people read, and text that comes from outside."""
