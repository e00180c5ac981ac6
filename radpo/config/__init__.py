"""The matrix file: YAML comes in, a checked `Matrix` goes out; errors name file, key, value and what is allowed."""

from radpo.config.loading import load_matrix
from radpo.config.matrix import Data, Matrix, VariantSettings
from radpo.config.section import DataFile

__all__ = ["Data", "DataFile", "Matrix", "VariantSettings", "load_matrix"]
