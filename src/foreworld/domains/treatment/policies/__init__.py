"""Policies learned from logged therapy without a world model: behaviour cloning, and offline reinforcement learning."""
