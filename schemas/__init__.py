"""What flows, frozen: nouns without behaviour; imports nobody."""
