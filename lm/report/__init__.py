"""What a run leaves behind: its folder, its metrics, its progress lines and its report."""
