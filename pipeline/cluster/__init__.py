"""Optional: several workers, a shared rate. Implements protocols that the core owns."""
