"""Image files that nobody should trust → pictures, in processes of their own."""
