"""What a run is worth: metrics, the rules that a gate has, and the verdict on each."""
