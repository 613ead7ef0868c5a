"""The second program: from records to tables. It loads no model."""
