"""The outcome of a run or a comparison for continuous integration: JUnit and Markdown."""
