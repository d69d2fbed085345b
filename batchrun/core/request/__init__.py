"""From a row to the request that is sent: columns, templates, bodies, sizes."""
