"""From one model or vocabulary to another, never half visible: filled beside the old, switched by name, dropped."""
