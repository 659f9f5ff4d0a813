"""Importers: recordings of other formats as a spec and episodes, one file per format."""
