"""Command line, configuration, supervision and embedded servers: composition only."""
