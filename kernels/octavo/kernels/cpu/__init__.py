"""The CPU kernels: C++ compiled at install, loaded when first asked for. No torch."""
