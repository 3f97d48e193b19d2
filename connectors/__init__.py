"""One folder per database: sources and targets behind the same small interfaces."""
