"""What lies between tokens and text, for engines driven from Python; knows neither torch nor ONNX Runtime."""
