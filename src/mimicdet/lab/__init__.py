"""The laboratory: studies, explanations, timings, the demo. Nobody outside imports it."""
