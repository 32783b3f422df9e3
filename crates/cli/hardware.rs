//! The catalogue of parts that this binary carries.

use plan::hardware::{Build, BuildError, Catalogue, Text};

/// The files of `configs/hardware/`.
const TEXTS: [Text<'static>; 3] = [
    Text { file: "configs/hardware/gpus.yaml", text: include_str!("../../configs/hardware/gpus.yaml") },
    Text { file: "configs/hardware/memories.yaml", text: include_str!("../../configs/hardware/memories.yaml") },
    Text { file: "configs/hardware/drives.yaml", text: include_str!("../../configs/hardware/drives.yaml") },
];

/// Every part, as built in.
pub(crate) fn catalogue() -> Catalogue {
    // A test reads the same texts: a binary without a catalogue is never made.
    Catalogue::parse(&TEXTS).unwrap_or_default()
}

/// The machine that somebody names.
pub(crate) fn build(text: &str) -> Result<Build, BuildError> {
    Build::parse(text, &catalogue())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_catalogue_is_sound() {
        let catalogue = Catalogue::parse(&TEXTS).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(catalogue, super::catalogue());
        assert!(catalogue.cards.len() > 10 && catalogue.memories.len() > 6 && catalogue.drives.len() > 3);
    }
}
