"""Does the PyTorch backend of a ptychography reconstruction do the same science as the TensorFlow backend?"""
