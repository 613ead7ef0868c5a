"""A cascade of budgets, from stored records alone: its stages, its curve, its guarantee."""
