//! A checksum that keeps up with a drive: XXH64 (<https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md>), 64 bits of which each
//! depends on every bit of the input. It finds accidents, not attacks. `xxhsum -H64` computes the same.

use std::hash::Hasher;

use twox_hash::XxHash64;

/// The checksum of bytes that come in parts (seed 0).
#[derive(Clone, Debug)]
pub struct Checksum(XxHash64);

impl Default for Checksum {
    fn default() -> Self {
        Self::new()
    }
}

impl Checksum {
    /// Of nothing yet.
    #[must_use]
    pub const fn new() -> Self {
        Self(XxHash64::with_seed(0))
    }

    /// Of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> u64 {
        XxHash64::oneshot(0, bytes)
    }

    /// Adds bytes behind those that came before.
    pub fn add(&mut self, bytes: &[u8]) {
        self.0.write(bytes);
    }

    /// The checksum of all that came.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_of_the_specification() {
        // Of `xxhsum -H64`.
        for (text, sum) in [
            ("", 0xEF46_DB37_51D8_E999),
            ("a", 0xD24E_C4F1_A98C_6E5B),
            ("abc", 0x44BC_2CF5_AD77_0999),
            ("Nobody inspects the spammish repetition", 0xFBCE_A83C_8A37_8BF1),
        ] {
            assert_eq!(Checksum::of(text.as_bytes()), sum, "{text}");
        }
    }

    #[test]
    fn parts_do_not_show_and_every_bit_does() {
        let bytes: Vec<u8> = (0..200_u32).map(|i| (i * 37 >> 2) as u8).collect();
        let whole = Checksum::of(&bytes);
        for cut in 0..bytes.len() {
            let mut sum = Checksum::new();
            sum.add(&bytes[..cut]);
            sum.add(&[]);
            sum.add(&bytes[cut..]);
            assert_eq!(sum.value(), whole, "cut at {cut}");
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[cut] ^= 1 << bit;
                assert_ne!(Checksum::of(&flipped), whole, "bit {bit} of byte {cut}");
            }
        }
    }
}
