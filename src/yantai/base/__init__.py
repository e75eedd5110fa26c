"""Ground floor: errors, configuration, files, device, log. It knows nothing of language."""
