"""Studies in the places where people compare experiments: MLflow. Observers, which write after the study's own commit."""
