"""Pages of HTML: how they are rendered, and what they look like."""
