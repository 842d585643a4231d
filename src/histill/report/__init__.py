"""What core/report holds, as HTML, Markdown and pictures."""
