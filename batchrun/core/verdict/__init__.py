"""What an exchange means: retry, fail, accept; and what the answer is checked for."""
