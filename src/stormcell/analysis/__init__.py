"""What is computed from data or a trained model without training."""
