"""Agents that learn from rewards: deep and tabular Q-learning."""
