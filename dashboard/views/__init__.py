"""One screen a file, each with a function `render`."""
