"""The resource directory: which node masters which block, and why. Pure: time is a parameter."""
