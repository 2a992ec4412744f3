"""YAML files ↔ frozen typed values, errors with line numbers, edits that keep comments."""
