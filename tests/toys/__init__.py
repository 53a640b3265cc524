"""What tests build on: tiny models, pictures, data sets, artifacts and finished runs."""
