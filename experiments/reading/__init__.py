"""From files to questions: raw layouts, tables of the hub, the embedded world."""
