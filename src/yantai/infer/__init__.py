"""Using a trained model: sampling, generation, the object that people hold in their hands."""
