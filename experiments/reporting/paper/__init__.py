"""The paper's tables, figures and claims, from the records of its study."""
