"""People's labels of what a model made, given blind."""
