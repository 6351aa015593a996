"""What a run has to show: its figures as JSON, as a page to read, and as a few lines on a terminal."""
