"""Many runs together: a folder of them, and what they cost."""
