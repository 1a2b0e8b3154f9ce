"""Reports: one frozen value, written as one offline page, canonical JSON, tables, or all of them in a zip."""
