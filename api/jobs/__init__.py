"""Jobs over HTTP: from a document to a command of the log, and back to a document."""
