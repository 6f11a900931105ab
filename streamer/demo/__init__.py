"""Everything `streamer demo` adds to the real worker: broker, image host, traffic, display, report."""
