"""Masked operators: a 3D CNN that sees visible voxels only, exactly."""
