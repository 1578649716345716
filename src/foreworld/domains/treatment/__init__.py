"""Treatment: insulin dosing in type 1 diabetes on simulated patients."""
