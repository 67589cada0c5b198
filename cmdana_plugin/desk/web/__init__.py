"""The live page: what it holds in memory, who may see it, and how it is drawn."""
