"""From words to places: attention, Grounding DINO, vision-language models, Segment Anything."""
